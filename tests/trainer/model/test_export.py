"""Each saved result, reloaded in a new process with another seed, computes what the trained model computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from peft import PeftConfig
from safetensors import safe_open
from trainer.base_models import MODELS, VOCABULARY, save_model
from trainer.export_ranks import train_and_export
from trainer.fixtures_data import CLAUSES, dataset, run_config, workspace, write_jsonl, write_pictures
from trainer.worlds import Worlds

from finetune_trainer.contract import Columns, Lora, RunConfig, Source, World
from finetune_trainer.pod.paths import Paths

pytestmark = pytest.mark.timeout(300)
"""The timeout of a test. The first test of a stage waits until all cases of the stage are trained and reloaded."""

TESTS = Path(__file__).parents[2]
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


@dataclass(frozen=True)
class Results:
    """The results of all cases at one stage."""

    paths: Paths
    parameters: dict[str, tuple[int, int]]
    """The numbers of trained parameters and of all parameters."""
    differences: dict[str, dict[str, float]]
    """The differences of the logits that reload_results.py prints."""


@pytest.fixture(scope="module", params=[0, 3], ids=["stage 0", "stage 3"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worlds: Worlds) -> Results:
    """Train all cases in one world and reload them in one process.

    Starting Python takes longer than training and reloading.
    """
    folder = tmp_path_factory.mktemp("results")
    paths = workspace(folder)
    write_jsonl(
        paths.workspace / "clauses.jsonl",
        [{**row, "clause": f"word{i} word{i % 7} word{i % 3}"} for i, row in enumerate(CLAUSES[:59])],
    )
    write_pictures(paths.workspace / "pictures", classes=("cup", "plate", "spoon"))
    for model in MODELS:
        save_model(model, paths.workspace / "models" / model)
    parameters = {}
    for case in CASES:
        config = case_config(case, request.param)
        (folder / f"{case}.json").write_text(config.to_json())
        parameters[case] = worlds(config.world.size).run(train_and_export, config, paths)[0]
    reloading = subprocess.run(
        [sys.executable, str(TESTS / "trainer/reload_results.py"), str(folder), *CASES],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert reloading.returncode == 0, reloading.stderr[-4000:]
    return Results(paths, parameters, json.loads(reloading.stdout))


@pytest.mark.parametrize("case", CASES)
def test_a_reloaded_result_answers_as_the_trained_model(case: str, results: Results) -> None:
    differences = results.differences[case]
    assert differences["start"] > 100 * TOLERANCE, "training must have changed the model for this to tell anything"
    assert differences["result"] < TOLERANCE
    assert differences.get("merged", 0.0) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_a_result_has_the_files_that_its_users_expect(case: str, results: Results) -> None:
    output = results.paths.workspace / "runs" / case / "output"
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


@pytest.mark.parametrize("folder", ["llama-full/output", "llama-lora/output/merged", "llama-lora/start"])
def test_generation_with_a_result_stops_at_the_end_that_was_learned(folder: str, results: Results) -> None:
    saved = json.loads((results.paths.workspace / "runs" / folder / "generation_config.json").read_text())
    assert saved["eos_token_id"] == [2, VOCABULARY.index("[SEP]")], "the base model's own, and the tokenizer's"


def test_an_adapter_holds_the_adapter_and_the_new_head_alone(results: Results) -> None:
    output = results.paths.workspace / "runs/bert-without-pooler-lora/output"
    with safe_open(output / "adapter_model.safetensors", "pt") as file:
        names = {name.removeprefix("base_model.model.") for name in file.keys()}  # noqa: SIM118  # not a dictionary
    full = {name for name in names if "lora_" not in name}
    assert full == {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert len(names) > len(full)


def test_the_numbers_of_parameters_are_those_of_the_whole_model(results: Results) -> None:
    trained, total = results.parameters["llama-full"]
    assert trained == total == MODELS["llama"]().num_parameters()
    trained, with_adapter = results.parameters["llama-lora"]
    assert with_adapter == total + trained
    # q, k, v, o: 32 -> 32; gate, up: 32 -> 64; down: 64 -> 32; rank 4; 2 layers
    assert trained == 2 * 4 * (4 * (32 + 32) + 3 * (32 + 64))
