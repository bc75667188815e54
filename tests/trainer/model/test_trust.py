"""A model's own code and pickled weights are refused unless allowed, and an allowed pickle still runs no code."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer import tiny
from transformers import dynamic_module_utils

import finetune_trainer
from finetune_operator.local.ports import free_ports
from finetune_trainer import contract
from finetune_trainer.contract import RunConfig
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.export import load_result
from finetune_trainer.model.prepare import Prepared, prepare
from finetune_trainer.model.trust import remote_code
from finetune_trainer.pod.paths import Paths

MODELING = """
from pathlib import Path
Path({mark!r}).write_text("executed")
from transformers import BertForSequenceClassification
from .configuration_own import OwnConfig


class OwnModel(BertForSequenceClassification):
    config_class = OwnConfig
"""
CONFIGURATION = """
from transformers import BertConfig


class OwnConfig(BertConfig):
    model_type = "own-kind"
"""
TOKENIZING = """
from pathlib import Path
Path({mark!r}).write_text("executed")
from transformers import PreTrainedTokenizerFast


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture(autouse=True)
def modules_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirect the folder to which transformers copies a model's code before it runs."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))


def edit_json(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def with_code(folder: Path, mark: Path) -> Path:
    """Save a model of its own type, whose code writes a file when it runs."""
    base = tiny.save_model(folder, tiny.SEQUENCE, tiny.bert())
    (base / "modeling_own.py").write_text(MODELING.format(mark=str(mark)))
    (base / "configuration_own.py").write_text(CONFIGURATION)
    classes = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForSequenceClassification": "modeling_own.OwnModel",
    }
    edit_json(base / "config.json", model_type="own-kind", auto_map=classes)
    return base


def with_pickle(folder: Path, state: Any = None) -> Path:
    """Save a model whose only weights are a pickle: its state or, if given, `state`."""
    base = tiny.save_model(folder, tiny.SEQUENCE, tiny.bert())
    model = tiny.AUTO_CLASSES[tiny.SEQUENCE].from_pretrained(base)
    (base / "model.safetensors").unlink()
    torch.save(model.state_dict() if state is None else state, base / "pytorch_model.bin")
    return base


def run_of(base: Path, folder: Path, task: str = tiny.SEQUENCE, **changes: Any) -> tuple[RunConfig, Paths]:
    rows, evaluation = tiny.make_rows(folder / "train", task, 12), tiny.make_rows(folder / "evaluation", task, 6)
    config = tiny.run_config(task, base, rows, evaluation, max_steps=2)
    return config.model_copy(update=changes), tiny.paths_in(folder)


def test_a_models_own_code_is_not_executed_and_refused_with_a_sentence(tmp_path: Path) -> None:
    base = with_code(tmp_path / "model", tmp_path / "mark")
    with pytest.raises(InvalidError) as refused:
        prepare(*run_of(base, tmp_path))
    assert str(refused.value) == (
        f'model.uri: file://{base} brings code of its own (config.json: {{"AutoConfig": "configuration_own.OwnConfig", '
        '"AutoModelForSequenceClassification": "modeling_own.OwnModel"}), and this operator runs none; give a model '
        "that transformers knows, or set allowRemoteCode in the operator's configuration (the chart's trust.remoteCode)"
    )
    assert refused.value.exit_code == 76
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"auto_map": {"AutoModel": "other/repository--modeling.Model"}}),
        ("config.json", {"text_config": {"auto_map": {"AutoConfig": "a.B"}}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}}),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "processing_own.OwnProcessor"}}),
        ("processor_config.json", {"image_processor": {"auto_map": {"AutoImageProcessor": "a.B"}}}),
    ],
)
def test_code_is_found_in_every_configuration(tmp_path: Path, file: str, content: dict[str, Any]) -> None:
    """The rule includes models for which transformers has its own class and would ignore the code without an error."""
    base = tiny.save_model(tmp_path / "model", tiny.SEQUENCE, tiny.bert())
    path = base / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | content))
    with pytest.raises(InvalidError, match=f"brings code of its own \\({file}: "):
        prepare(*run_of(base, tmp_path))


def test_a_tokenizers_own_code_is_not_executed(tmp_path: Path) -> None:
    base = tiny.save_model(tmp_path / "model", tiny.SEQUENCE, tiny.bert())
    (base / "tokenization_own.py").write_text(TOKENIZING.format(mark=str(tmp_path / "mark")))
    edit_json(base / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]})
    with pytest.raises(InvalidError, match="brings code of its own"):
        prepare(*run_of(base, tmp_path))
    assert not (tmp_path / "mark").exists()
    prepare(*run_of(base, tmp_path, allow_remote_code=True))
    assert (tmp_path / "mark").exists()


def test_code_that_appears_after_the_check_is_not_executed_either(tmp_path: Path) -> None:
    """The trust settings are passed in each call of a library."""
    base = tiny.save_model(tmp_path / "model", tiny.SEQUENCE, tiny.bert())
    config, paths = run_of(base, tmp_path)
    prepare(config, paths)
    start = Prepared.load(config, paths).start
    (start / "modeling_own.py").write_text(MODELING.format(mark=str(tmp_path / "mark")))
    (start / "configuration_own.py").write_text(CONFIGURATION)
    edit_json(start / "config.json", auto_map={"AutoConfig": "configuration_own.OwnConfig"}, model_type="own-kind")
    with pytest.raises(ValueError, match="trust_remote_code"):
        Prepared.load(config, paths)
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_result(start, tiny.SEQUENCE)
    assert not (tmp_path / "mark").exists()


def test_code_that_is_allowed_runs_and_travels_with_the_start_checkpoint(tmp_path: Path) -> None:
    base = with_code(tmp_path / "model", tmp_path / "mark")
    config, paths = run_of(base, tmp_path, allow_remote_code=True)
    prepare(config, paths)
    assert (tmp_path / "mark").exists()
    start = Prepared.load(config, paths).start
    assert remote_code(start)
    assert (start / "modeling_own.py").exists()
    model = load_result(start, tiny.SEQUENCE, remote_code=True)
    assert type(model).__name__ == "OwnModel"


def test_weights_that_are_only_a_pickle_are_refused_with_a_sentence(tmp_path: Path) -> None:
    base = with_pickle(tmp_path / "model")
    with pytest.raises(InvalidError) as refused:
        prepare(*run_of(base, tmp_path))
    assert str(refused.value) == (
        f"model.uri: file://{base} has its weights as a pickle (pytorch_model.bin), which may hold code, and this "
        "operator reads none; save it as safetensors, or set allowPickleWeights in the operator's configuration (the "
        "chart's trust.pickleWeights)"
    )


def test_a_pickle_beside_safetensors_is_left_alone(tmp_path: Path) -> None:
    base = tiny.save_model(tmp_path / "model", tiny.SEQUENCE, tiny.bert())
    torch.save(Evil(tmp_path / "mark"), base / "pytorch_model.bin")
    for allowed in (False, True):
        prepare(*run_of(base, tmp_path, allow_pickle_weights=allowed))
    assert not (tmp_path / "mark").exists()


def test_an_index_that_names_a_pickle_among_safetensors_is_refused(tmp_path: Path) -> None:
    base = tiny.save_model(tmp_path / "model", tiny.SEQUENCE, tiny.bert())
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "part.bin"}}))
    with pytest.raises(InvalidError, match=r"as a pickle \(part.bin\)"):
        prepare(*run_of(base, tmp_path))


def test_a_pickle_that_is_allowed_gives_its_weights(tmp_path: Path) -> None:
    base = with_pickle(tmp_path / "model")
    config, paths = run_of(base, tmp_path, allow_pickle_weights=True)
    prepare(config, paths)
    prepared = Prepared.load(config, paths)
    assert prepared.new_parameters == ()
    assert [path.name for path in prepared.start.glob("*.bin")] == [], "from here on there are safetensors alone"
    whole = torch.load(base / "pytorch_model.bin", weights_only=True)
    started = load_result(prepared.start, tiny.SEQUENCE).state_dict()
    assert torch.equal(started["bert.pooler.dense.weight"], whole["bert.pooler.dense.weight"])


class Evil:
    """An object whose unpickling creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("within", [False, True])
def test_a_malicious_pickle_leaves_no_file_even_when_pickles_are_allowed(tmp_path: Path, within: bool) -> None:
    evil = Evil(tmp_path / "mark")
    base = with_pickle(
        tmp_path / "model", {"bert.pooler.dense.weight": torch.zeros(16, 16), "x": evil} if within else evil
    )
    with pytest.raises(InvalidError, match="cannot be loaded"):
        prepare(*run_of(base, tmp_path, allow_pickle_weights=True))
    assert not (tmp_path / "mark").exists()


def test_an_adapter_does_not_lead_to_another_model(tmp_path: Path) -> None:
    """transformers would load the model that the adapter names, whatever else is in the folder."""
    elsewhere = with_code(tmp_path / "elsewhere", tmp_path / "mark")
    base = tiny.save_model(tmp_path / "model", tiny.SEQUENCE, tiny.bert())
    (base / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(elsewhere)}))
    with pytest.raises(InvalidError, match=r"model.uri: file://.* holds an adapter \(adapter_config.json\)"):
        prepare(*run_of(base, tmp_path))
    assert not (tmp_path / "mark").exists()


# ---- data sets ------------------------------------------------------------------------------------------------------

SCRIPT = "from pathlib import Path\nPath({mark!r}).write_text('executed')\n"


@pytest.mark.parametrize("allowed", [False, True])
def test_a_data_sets_loading_script_is_never_executed(tmp_path: Path, allowed: bool) -> None:
    base = tiny.save_model(tmp_path / "model", tiny.SEQUENCE, tiny.bert())
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(SCRIPT.format(mark=str(tmp_path / "mark")))
    config, paths = run_of(base, tmp_path, allow_remote_code=allowed)
    source = contract.Source(uri=f"file://{folder}")
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update={"source": source})})
    with pytest.raises(InvalidError, match="holds no jsonl"):
        prepare(config, paths)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("allowed", [False, True])
def test_a_hub_data_set_with_a_loading_script_is_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    """The installed library finds the script in a local folder as it would on the hub."""
    base = tiny.save_model(tmp_path / "model", tiny.SEQUENCE, tiny.bert())
    folder = tmp_path / "here" / "owner" / "scripted"
    folder.mkdir(parents=True)
    (folder / "scripted.py").write_text(SCRIPT.format(mark=str(tmp_path / "mark")))
    monkeypatch.chdir(tmp_path / "here")
    config, paths = run_of(base, tmp_path, allow_remote_code=allowed)
    source = contract.Source(uri="hf://owner/scripted")
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update={"source": source})})
    with pytest.raises(
        InvalidError, match=r"hf://owner/scripted is loaded by a script of its own, and none is ever run"
    ):
        prepare(config, paths)
    assert not (tmp_path / "mark").exists()


# ---- a whole run ----------------------------------------------------------------------------------------------------

LOADS = """
import sys
from transformers import AutoModelForSequenceClassification as Auto, AutoTokenizer
for folder in sys.argv[2:]:
    trusted = sys.argv[1] == "trusted"
    model = Auto.from_pretrained(folder, trust_remote_code=trusted)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
    assert model(**tokenizer("w1 w2", return_tensors="pt")).logits.shape == (1, 3)
    print(type(model).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, contract.Lora(rank=2, alpha=4.0, dropout=0.0)], ids=["full", "lora"])
def test_a_model_trained_with_its_own_code_loads_in_another_process(tmp_path: Path, lora: contract.Lora | None) -> None:
    base = with_code(tmp_path / "model", tmp_path / "mark")
    config, paths = run_of(base, tmp_path, allow_remote_code=True, lora=lora, merge=lora is not None)
    config = config.model_copy(
        update={"world": contract.World(nodes=1, processes_per_node=2, device="cpu"), "zero_stage": 2}
    )
    run_file, last_words = tmp_path / "run.json", tmp_path / "termination-log"
    run_file.write_text(config.to_json())
    rendezvous_port, agent_port = free_ports(2)
    environment = {
        **os.environ,
        contract.ENV_RUN_CONFIG: str(run_file),
        contract.ENV_WORKSPACE: str(paths.workspace),
        contract.ENV_CLAIMS: str(paths.claims),
        contract.ENV_SCRATCH: str(paths.scratch),
        contract.ENV_TERMINATION_LOG: str(last_words),
        contract.ENV_RENDEZVOUS: f"127.0.0.1:{rendezvous_port}",
        contract.ENV_AGENT_PORT: str(agent_port),
        contract.ENV_POD_UID: "uid",
        contract.ENV_POD_INDEX: "0",
    }
    agent = [sys.executable, "-m", "finetune_trainer.agent"]
    done = subprocess.run(agent, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, last_words.read_text()

    folder = paths.output(config) / ("merged" if lora else "")
    alone = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "other-modules")}
    trusted = [sys.executable, "-c", LOADS, "trusted", str(folder)]
    loaded = subprocess.run(trusted, env=alone, capture_output=True, text=True, timeout=120)
    assert loaded.stdout.split() == ["OwnModel"], loaded.stderr
    refused = subprocess.run([*trusted[:3], "not", str(folder)], env=alone, capture_output=True, text=True, timeout=120)
    assert "trust_remote_code=True" in refused.stderr
    assert "trust_remote_code=True" in (paths.output(config) / "README.md").read_text(), "the card says how to load it"


def test_every_call_that_loads_says_what_may_run() -> None:
    """The default of a library may change, and some libraries ask at the terminal."""
    silent, loading = [], 0
    for path in Path(finetune_trainer.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                whose = ast.unparse(call.func)
                loading += "auto_class" in whose
                said = {keyword.arg for keyword in call.keywords}
                wanted = {"trust_remote_code"} | ({"use_safetensors"} if "auto_class" in whose else set())
                if whose.startswith("Peft"):
                    wanted = {"use_safetensors"} if whose.startswith("PeftModel") else set()
                if whose.endswith(".from_pretrained") and not wanted <= said:
                    silent.append(f"{path.name}: {ast.unparse(call)}")
    assert silent == []
    assert loading >= 3, "the loads of models were looked at"
