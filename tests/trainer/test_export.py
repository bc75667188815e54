"""Each saved result, reloaded in a new process under another seed, answers as the trained model did."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig
from safetensors import safe_open
from trainer.fixtures_data import CLAUSES, dataset, run_config, workspace, write_jsonl, write_pictures
from trainer.base_models import MODELS, save_model

from finetune_trainer.contract import Columns, Lora, RunConfig, Source, World

TESTS = Path(__file__).parents[1]
TOLERANCE = 1e-5
METHODS = {"full": None, "lora": Lora(rank=4, alpha=8, dropout=0.0)}
TASKS = {"bert": "SequenceClassification", "vit": "ImageClassification", "llama": "CausalLM", "gpt2": "CausalLM"}
CASES = [f"{model}-{method}" for model in MODELS for method in METHODS]


def case_config(case: str, stage: int) -> RunConfig:
    model, _, method = case.rpartition("-")
    task = TASKS[model.split("-")[0]]
    data = {
        "SequenceClassification": dataset("workspace://clauses.jsonl"),
        "ImageClassification": dataset("workspace://pictures", Columns(image="image", label="label")),
        "CausalLM": dataset("workspace://clauses.jsonl", Columns(text="clause")),
    }[task]
    config = run_config(
        folder=f"runs/{case}",
        task=task,
        model=Source(uri=f"workspace://models/{model}"),
        dataset=data,
        lora=METHODS[method],
        merge=method == "lora",
        zero_stage=stage,
        world=World(nodes=1, processes_per_node=2 if stage == 3 else 1, device="cpu"),
        metrics=("perplexity",) if task == "CausalLM" else ("accuracy",),
    )
    return config.model_copy(
        update={"training": config.training.model_copy(update={"epochs": None, "max_steps": 2, "learning_rate": 1e-2})}
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def python(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    search_path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(TESTS / "trainer" / script), *arguments],
        env={**os.environ, "PYTHONPATH": search_path, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    outputs = []
    try:
        for process in processes:
            output, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-4000:]
            outputs.append(output)
    finally:
        for process in processes:
            process.kill()
    return outputs


@pytest.fixture(scope="module", params=[0, 3], ids=["stage 0", "stage 3"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """All cases are trained in one world and reloaded in one process: starting Python takes longer than both."""
    folder = tmp_path_factory.mktemp("results")
    paths = workspace(folder)
    write_jsonl(
        paths.workspace / "clauses.jsonl",
        [{**row, "clause": f"word{i} word{i % 7} word{i % 3}"} for i, row in enumerate(CLAUSES[:59])],
    )
    write_pictures(paths.workspace / "pictures", classes=("cup", "plate", "spoon"))
    for model in MODELS:
        save_model(model, paths.workspace / "models" / model)
    configs = {case: case_config(case, request.param) for case in CASES}
    for case, config in configs.items():
        (folder / f"{case}.json").write_text(config.to_json())
    world = next(iter(configs.values())).world.size
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    finish(
        [
            python("export_ranks.py", str(folder), *CASES, RANK=str(rank), LOCAL_RANK=str(rank), **address)
            for rank in range(world)
        ]
    )
    (answer,) = finish([python("reload_results.py", str(folder), *CASES)])
    return folder, json.loads(answer)


@pytest.mark.parametrize("case", CASES)
def test_a_reloaded_result_answers_as_the_trained_model(case: str, results: tuple[Path, dict[str, Any]]) -> None:
    differences = results[1][case]
    assert differences["start"] > 100 * TOLERANCE, "training must have changed the model for this to tell anything"
    assert differences["result"] < TOLERANCE
    assert differences.get("merged", 0.0) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_a_result_has_the_files_that_its_users_expect(case: str, results: tuple[Path, dict[str, Any]]) -> None:
    output = workspace(results[0]).workspace / "runs" / case / "output"
    processor = "preprocessor_config.json" if case.startswith("vit") else "tokenizer.json"
    names = {path.relative_to(output).as_posix() for path in output.rglob("*")}
    if case.endswith("full"):
        assert {"config.json", "model.safetensors", processor} <= names
    else:
        assert {"adapter_config.json", "adapter_model.safetensors", processor, "merged/config.json"} <= names
        assert "model.safetensors" not in names
        base = PeftConfig.from_pretrained(str(output)).base_model_name_or_path
        assert Path(base) == output.parent / "start"
    assert not [path for path in output.parent.iterdir() if path.name.startswith(".")], "nothing temporary is left"


def test_an_adapter_holds_the_adapter_and_the_new_head_alone(results: tuple[Path, dict[str, Any]]) -> None:
    output = workspace(results[0]).workspace / "runs/bert-without-pooler-lora/output"
    with safe_open(output / "adapter_model.safetensors", "pt") as file:
        names = {name.removeprefix("base_model.model.") for name in file.keys()}  # noqa: SIM118  # not a dictionary
    full = {name for name in names if "lora_" not in name}
    assert full == {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert len(names) > len(full)


def test_the_numbers_of_parameters_are_those_of_the_whole_model(results: tuple[Path, dict[str, Any]]) -> None:
    runs = workspace(results[0]).workspace / "runs"
    trained, total = map(int, (runs / "llama-full/exported.txt").read_text().split())
    assert trained == total == MODELS["llama"]().num_parameters()
    trained, with_adapter = map(int, (runs / "llama-lora/exported.txt").read_text().split())
    assert with_adapter == total + trained
    # q, k, v, o: 32 -> 32; gate, up: 32 -> 64; down: 64 -> 32; rank 4; 2 layers
    assert trained == 2 * 4 * (4 * (32 + 32) + 3 * (32 + 64))
