"""The result's path holds either a complete result or no files."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from trainer.base_models import MODELS, tokenizer
from trainer.fixtures_data import run_config, workspace

from finetune_trainer.contract import Lora, RunConfig
from finetune_trainer.model.export import Exported, digest_of, export, load_result
from finetune_trainer.pod.paths import Paths
from finetune_trainer.ranks.distributed import Ranks

CONFIG = run_config(task="CausalLM", lora=Lora(rank=4, alpha=8, dropout=0.0))


def alone() -> Ranks:
    """Return the ranks of a world with one rank."""
    return Ranks(dist.HashStore(), rank=0, world=1, scratch=Path(), device=torch.device("cpu"))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return workspace(tmp_path)


def trained_adapter(paths: Paths, dtype: torch.dtype = torch.float32) -> Any:
    """Return an engine whose model is an adapter with weights large enough to affect the outputs."""
    torch.manual_seed(1)
    base = MODELS["llama"]().to(dtype)
    base.save_pretrained(paths.run(CONFIG) / "start")
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    model = get_peft_model(base, settings, autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return SimpleNamespace(module=model)


class BrokenProcessor:
    def save_pretrained(self, folder: str) -> None:
        raise OSError(28, "No space left on device")


def exported(paths: Paths, engine: Any, processor: Any = None, config: RunConfig = CONFIG) -> Exported:
    result = export(engine, processor or tokenizer(), config, paths, alone())
    assert result is not None
    return result


def test_the_digest_is_that_of_the_published_files_and_the_card_does_not_change_it(paths: Paths) -> None:
    result = exported(paths, trained_adapter(paths))
    folder = paths.workspace / result.path
    assert result.path == "legal/clauses/runs/1-0f9a/output"
    assert result.digest == digest_of(folder)
    (folder / "README.md").write_text("A card.")
    assert result.digest == digest_of(folder)
    (folder / "adapter_config.json").write_text("{}")
    assert result.digest != digest_of(folder)


def test_files_may_be_read_and_replaced_by_the_workspaces_group(paths: Paths) -> None:
    exported(paths, trained_adapter(paths))
    files = [path for path in paths.output(CONFIG).rglob("*") if path.is_file()]
    assert "adapter_model.safetensors" in {path.name for path in files}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o664}


def test_a_failure_while_saving_leaves_nothing_at_the_path(paths: Paths) -> None:
    with pytest.raises(RuntimeError, match=r"could not be saved in legal/clauses/.*No space left on device"):
        exported(paths, trained_adapter(paths), BrokenProcessor())
    assert not paths.output(CONFIG).exists()


def test_the_result_of_an_earlier_attempt_is_replaced_as_a_whole(paths: Paths) -> None:
    paths.output(CONFIG).mkdir(parents=True)
    (paths.output(CONFIG) / "outdated.json").write_text("{}")
    exported(paths, trained_adapter(paths))
    assert not (paths.output(CONFIG) / "outdated.json").exists()
    assert {path.name for path in paths.run(CONFIG).iterdir()} == {"start", "output"}


def test_a_copied_adapter_loads_with_the_start_checkpoint_beside_it(paths: Paths, tmp_path: Path) -> None:
    tokens = torch.tensor([[5, 6, 7]])
    engine = trained_adapter(paths)
    exported(paths, engine)
    moved = tmp_path / "copy"
    paths.run(CONFIG).rename(moved)
    adapter = load_result(moved / "output", "CausalLM", start=moved / "start")(tokens).logits
    torch.testing.assert_close(adapter, engine.module.eval()(tokens).logits, atol=1e-5, rtol=1e-5)
