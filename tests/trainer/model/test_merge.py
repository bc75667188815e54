"""A merged copy is added to a result or left out with a reason; the adapter is kept in either case."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import peft
import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from trainer.base_models import MODELS, tokenizer
from trainer.fixtures_data import run_config, workspace
from transformers import BartConfig, BartForSequenceClassification, MixtralConfig, MixtralForCausalLM

from finetune_trainer.contract import Facts, Lora, RunConfig
from finetune_trainer.model.export import digest_of, export, load_result
from finetune_trainer.model.merge import Merged, add_merged_copy
from finetune_trainer.model.prepare import Prepared
from finetune_trainer.pod.paths import Paths
from finetune_trainer.ranks.distributed import Ranks
from finetune_trainer.tasks.task import Settings

CONFIG = run_config(task="CausalLM", lora=Lora(rank=4, alpha=8, dropout=0.0), merge=True)
TARGETS = {"CausalLM": ["q_proj", "v_proj", "o_proj"], "SequenceClassification": ["q_proj"]}


def alone() -> Ranks:
    """Return the ranks of a world with one rank."""
    return Ranks(dist.HashStore(), rank=0, world=1, scratch=Path(), device=torch.device("cpu"))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return workspace(tmp_path)


def in_bf16() -> RunConfig:
    return CONFIG.model_copy(update={"training": CONFIG.training.model_copy(update={"precision": "bf16"})})


def published(paths: Paths, config: RunConfig = CONFIG, base: Any = None, spread: float = 0.2) -> Prepared:
    """Export an adapter as the run's result and return prepared evaluation rows.

    The greater the spread of the adapter's weights, the more the loss depends on the adapter.
    """
    torch.manual_seed(1)
    base = base or MODELS["llama"]()
    for parameter in base.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    base = base.to(torch.bfloat16 if config.training.precision == "bf16" else torch.float32)
    start = paths.run(config) / "start"
    base.save_pretrained(start)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=TARGETS[config.task]), autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=spread)
    export(SimpleNamespace(module=model), tokenizer(), config, paths, alone())
    return Prepared(
        train=datasets.Dataset.from_dict({}),
        evaluation=evaluation_rows(config.task),
        classes=0 if config.task == "CausalLM" else 3,
        digest="0" * 64,
        new_parameters=(),
        start=start,
        settings=Settings(tokenizer(), base.config, 32),
        facts=Facts(training_rows=0, evaluation_rows=20),
    )


def evaluation_rows(task: str) -> datasets.Dataset:
    """Return twenty encoded rows."""
    tokens = torch.randint(5, 60, (20, 12), generator=torch.Generator().manual_seed(3)).tolist()
    labels = {"labels": tokens} if task == "CausalLM" else {"label": [number % 3 for number in range(20)]}
    return datasets.Dataset.from_dict({"input_ids": tokens, **labels})


def adapter_digest(paths: Paths) -> str:
    assert not (paths.output(CONFIG) / "merged").exists()
    return digest_of(paths.output(CONFIG))


def assert_only_the_adapter_is_left(paths: Paths, digest: str) -> None:
    assert adapter_digest(paths) == digest
    assert {path.name for path in paths.run(CONFIG).iterdir()} == {"start", "output"}
    assert load_result(paths.output(CONFIG), "CausalLM") is not None


def test_the_copy_answers_as_the_adapter_and_is_part_of_the_results_digest(paths: Paths) -> None:
    merged = add_merged_copy(published(paths), CONFIG, paths, alone())
    output = paths.output(CONFIG)
    assert merged == Merged(path="legal/clauses/runs/1-0f9a/output/merged", digest=digest_of(output))
    tokens = torch.tensor([[5, 6, 7]])
    adapter, whole = load_result(output, "CausalLM"), load_result(output / "merged", "CausalLM")
    torch.testing.assert_close(adapter(tokens).logits, whole(tokens).logits, atol=1e-5, rtol=1e-5)
    assert (output / "merged/tokenizer.json").exists()
    assert {path.name for path in paths.run(CONFIG).iterdir()} == {"start", "output"}


def test_files_of_the_copy_may_be_read_and_replaced_by_the_workspaces_group(paths: Paths) -> None:
    add_merged_copy(published(paths), CONFIG, paths, alone())
    files = [path for path in (paths.output(CONFIG) / "merged").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o664}


def test_bf16_is_merged_in_bf16(paths: Paths) -> None:
    assert add_merged_copy(published(paths, in_bf16()), in_bf16(), paths, alone()).failure is None
    merged = load_result(paths.output(CONFIG) / "merged", "CausalLM")
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}


def test_a_mixture_of_experts_is_merged_in_bf16_though_its_router_picks_other_experts(paths: Paths) -> None:
    base = MixtralForCausalLM(
        MixtralConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
                      num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2)
    )  # fmt: skip
    prepared = published(paths, in_bf16(), base)
    assert add_merged_copy(prepared, in_bf16(), paths, alone()).failure is None
    output = paths.output(CONFIG)
    tokens = torch.tensor(prepared.evaluation["input_ids"])
    with torch.no_grad():
        adapter, merged = (load_result(path, "CausalLM")(tokens).logits.float() for path in (output, output / "merged"))
    assert (adapter - merged).norm() > 0.05 * adapter.norm(), "no token changed its expert"


def test_an_encoder_decoder_classifier_is_merged(paths: Paths) -> None:
    config = CONFIG.model_copy(update={"task": "SequenceClassification"})
    base = BartForSequenceClassification(
        BartConfig(vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                   decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32,
                   eos_token_id=3)
    )  # fmt: skip
    prepared = published(paths, config, base)
    rows = [[*tokens[:-1], 3] for tokens in ([5 + number % 7] * 12 for number in range(20))]
    prepared = Prepared(**{**vars(prepared), "evaluation": prepared.evaluation.remove_columns("input_ids").add_column(
        "input_ids", rows)})  # fmt: skip
    assert add_merged_copy(prepared, config, paths, alone()).failure is None


@pytest.mark.parametrize("config", [CONFIG, in_bf16()], ids=["fp32", "bf16"])
def test_a_copy_without_the_adapter_is_left_out(
    config: RunConfig, paths: Paths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(peft.LoraModel, "merge_and_unload", peft.LoraModel.unload)
    prepared = published(paths, config, spread=1.0)
    digest = adapter_digest(paths)
    merged = add_merged_copy(prepared, config, paths, alone())
    assert merged.failure is not None
    assert merged.failure.startswith("output.merge: the merged copy's loss on 20 evaluation rows is ")
    assert (merged.path, merged.digest) == (None, None)
    assert [record.getMessage() for record in caplog.records if "output.merge" in record.message] == [merged.failure]
    assert_only_the_adapter_is_left(paths, digest)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), ValueError("cannot merge\nthis layer"), torch.OutOfMemoryError("no room")],
    ids=["the disk is full", "PEFT refuses", "memory ran out"],
)
def test_an_error_in_merging_costs_the_copy_alone(
    error: Exception, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = published(paths)
    digest = adapter_digest(paths)

    def fail(model: Any) -> Any:
        raise error

    monkeypatch.setattr(peft.LoraModel, "merge_and_unload", fail)
    failure = add_merged_copy(prepared, CONFIG, paths, alone()).failure or ""
    words = " ".join(str(error).split())
    assert f"could not be merged into its base ({type(error).__name__}: {words})" in failure
    assert "\n" not in failure
    assert_only_the_adapter_is_left(paths, digest)


def test_an_error_after_the_copy_was_written_leaves_nothing_of_it(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = published(paths)
    digest = adapter_digest(paths)

    def fail(folder: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("finetune_trainer.model.merge.sync", fail)
    assert "Input/output error" in (add_merged_copy(prepared, CONFIG, paths, alone()).failure or "")
    assert_only_the_adapter_is_left(paths, digest)
