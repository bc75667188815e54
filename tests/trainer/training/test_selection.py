"""The best model becomes the result, and a training that no longer improves ends early."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from trainer import programs, tiny
from trainer.programs import Part, Stage
from trainer.worlds import Worlds

from finetune_trainer import contract
from finetune_trainer.checkpoint.files import CHECKPOINTS_FOLDER, Position
from finetune_trainer.contract import EarlyStopping, ExitCode, Result, RunConfig
from finetune_trainer.training.metrics_files import read_metrics
from finetune_trainer.training.selection import after_evaluation, ends_early, evaluation_is_due


def config_of(metric: contract.Metric = "accuracy", **changes: Any) -> RunConfig:
    task = tiny.CAUSAL_LM if metric == "perplexity" else tiny.SEQUENCE
    config = tiny.run_config(task, Path("/model"), Path("/rows"), **changes)
    return config.model_copy(update={"metrics": (metric,)})


def evaluated(config: RunConfig, values: Sequence[float], losses: Sequence[float] | None = None) -> Position:
    """Return the position after evaluations with these values of the metric, one after each step."""
    position = Position(step=0, epoch=0.0, evaluated=True)
    for step, value in enumerate(values, 1):
        loss = losses[step - 1] if losses else 1.0
        before = position.model_copy(update={"step": step, "evaluated": False})
        position = after_evaluation(config, before, {config.metrics[0]: value, "loss": loss})
    return position


# ---- the choice of the best model -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "values", "best_step"),
    [
        ("accuracy", [0.5, 0.7, 0.6], 2),
        ("f1", [0.5, 0.7, 0.9], 3),
        ("perplexity", [9.0, 7.0, 8.0], 2),
        ("perplexity", [7.0, 7.0, 7.0], 1),
    ],
)
def test_the_first_metric_chooses(metric: contract.Metric, values: list[float], best_step: int) -> None:
    best = evaluated(config_of(metric), values).best
    assert best is not None
    assert (best.step, best.value) == (best_step, values[best_step - 1])


def test_of_equal_values_the_lower_loss_is_better() -> None:
    best = evaluated(config_of(), [0.9, 0.9, 0.9], losses=[0.5, 0.3, 0.4]).best
    assert best is not None
    assert best.step == 2


# ---- when an evaluation is due --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({"keep": "Last"}, [4, 8]),
        ({"keep": "Best"}, [4, 8, 10]),
        ({"keep": "Last", "evaluate_every_steps": 3}, [3, 6, 9]),
        ({"keep": "Best", "evaluate_every_steps": 3}, [3, 6, 9, 10]),
        ({"keep": "Best", "evaluate_every_steps": 50}, [10]),
    ],
)
def test_evaluations_come_after_epochs_or_steps_and_at_the_end_if_the_best_is_wanted(
    changes: dict[str, Any], due: list[int]
) -> None:
    config = config_of(**changes)
    assert [step for step in range(1, 11) if evaluation_is_due(config, step, 4, 10)] == due


# ---- early stopping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "values", "patience", "min_delta", "ends_at"),
    [
        ("accuracy", [0.5, 0.6, 0.6, 0.6], 2, 0.0, 4),
        ("accuracy", [0.5, 0.4, 0.6, 0.5, 0.6], 2, 0.0, 5),
        ("accuracy", [0.5, 0.505, 0.509, 0.9], 2, 0.01, 3),
        ("accuracy", [0.5, 0.508, 0.516, 0.524], 2, 0.01, None),
        ("perplexity", [9.0, 8.0, 8.5], 1, 0.0, 3),
        ("perplexity", [9.0, 8.0, 7.0], 1, 0.0, None),
        ("perplexity", [9.0, 8.9, 8.8], 2, 0.5, 3),
    ],
)
def test_it_ends_after_evaluations_without_an_improvement(
    metric: contract.Metric, values: list[float], patience: int, min_delta: float, ends_at: int | None
) -> None:
    """A slow but steady improvement counts: each value is compared with the last one that improved."""
    config = config_of(metric, early_stopping=EarlyStopping(patience=patience, min_delta=min_delta))
    ends = [count for count in range(1, len(values) + 1) if ends_early(config, evaluated(config, values[:count]))]
    assert (ends[0] if ends else None) == ends_at


def test_without_early_stopping_it_never_ends_early() -> None:
    assert not ends_early(config_of(), evaluated(config_of(), [0.5] * 100))


# ---- whole trainings ------------------------------------------------------------------------------------------------

STEPS = 8
Sources = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Return a model, training rows, and evaluation rows with the opposite labels.

    The more the model learns, the worse its evaluation becomes.
    """
    folder = tmp_path_factory.mktemp("sources")
    rows = [
        tiny.write_rows(
            folder / f"{name}.jsonl",
            [{"text": f"w{n} {name}", "label": tiny.LABELS[(n + offset) % 2]} for n in range(40)],
        )
        for offset, name in enumerate(("train", "evaluation"))
    ]
    return tiny.save_model(folder / "model", tiny.SEQUENCE, tiny.bert()), *rows


def run_of(sources: Sources, **changes: Any) -> RunConfig:
    recipe = {"max_steps": STEPS, "learning_rate": 0.01, "warmup_fraction": 0.0, "keep": "Best"}
    return tiny.run_config(tiny.SEQUENCE, *sources, **{**recipe, "evaluate_every_steps": 2, **changes})


def evaluations(config: RunConfig, paths: Any) -> dict[int, float]:
    """Return the loss by step of the evaluations during the training."""
    records = read_metrics(paths.run(config))
    return {record["step"]: record["metrics"]["loss"] for record in records if record.get("split") == "step"}


@pytest.mark.parametrize(("stage", "lora"), [(0, None), (3, contract.Lora(rank=4, alpha=8, dropout=0.0))])
def test_the_result_is_the_best_model_and_measures_as_it_did(
    worlds: Worlds, sources: Sources, tmp_path: Path, stage: int, lora: contract.Lora | None
) -> None:
    config = run_of(sources, stage=stage, lora=lora, world=2)
    paths = tiny.paths_in(tmp_path)
    result: Result = worlds(2).run(programs.train, config, paths)[0]
    losses = evaluations(config, paths)
    assert sorted(losses) == [2, 4, 6, 8]
    assert losses[2] == min(losses.values()), "this test needs the first model to be the best"
    assert (result.step, result.last_step, result.stopped_early) == (2, STEPS, False)
    assert result.metrics["loss"] == pytest.approx(losses[2], rel=1e-5)
    card = (paths.output(config) / "README.md").read_text()
    assert f"| optimizer steps | {STEPS}; the model of step 2 is kept, the best by accuracy |" in card


def test_the_last_model_is_the_result_if_it_is_wanted(worlds: Worlds, sources: Sources, tmp_path: Path) -> None:
    config = run_of(sources, keep="Last")
    paths = tiny.paths_in(tmp_path)
    result: Result = worlds(1).run(programs.train, config, paths)[0]
    assert (result.step, result.last_step) == (STEPS, None)
    assert result.metrics["loss"] == pytest.approx(evaluations(config, paths)[STEPS], rel=1e-5)


def parts(worlds: Worlds, config: RunConfig, paths: Any, stops: Sequence[int | None]) -> list[Part]:
    """Run one attempt after the other, each asked to stop after a step."""
    done = []
    for number, stop_after in enumerate(stops, 1):
        attempt = config.model_copy(update={"attempt": number, "nonce": f"n{number}"})
        done.append(worlds(1).run(programs.part, Stage(attempt, stop_after), paths)[0])
    return done


@pytest.mark.parametrize("stopping", [None, EarlyStopping(patience=1, min_delta=0.0)])
def test_interruptions_change_neither_the_kept_model_nor_the_end(
    worlds: Worlds, sources: Sources, tmp_path: Path, stopping: EarlyStopping | None
) -> None:
    config = run_of(sources, early_stopping=stopping)
    (whole,) = parts(worlds, config, tiny.paths_in(tmp_path / "whole"), [None])
    broken = parts(worlds, config, tiny.paths_in(tmp_path / "parts"), [1, 3, None])
    assert whole.exit_code == broken[-1].exit_code == ExitCode.DONE
    assert [loss for part in broken for loss in part.losses] == whole.losses
    assert len(whole.losses) == (4 if stopping else STEPS)
    assert broken[-1].kept_step == whole.kept_step == 2
    assert broken[-1].digest == whole.digest


def test_a_training_that_has_ended_early_trains_no_further_when_it_starts_again(
    worlds: Worlds, sources: Sources, tmp_path: Path
) -> None:
    config = run_of(sources, early_stopping=EarlyStopping(patience=1, min_delta=0.0))
    first, again = parts(worlds, config, tiny.paths_in(tmp_path), [None, None])
    assert again.losses == []
    assert (again.kept_step, again.digest) == (first.kept_step, first.digest)


def test_a_best_model_that_could_not_be_saved_is_not_the_best(worlds: Worlds, sources: Sources, tmp_path: Path) -> None:
    """The disk is full when the model of the first evaluation is saved."""
    config = run_of(sources)
    paths = tiny.paths_in(tmp_path)
    part = worlds(1).run(programs.part, Stage(config, None, disk_fault=(2, "full")), paths)[0]
    losses = evaluations(config, paths)
    assert losses[2] == min(losses.values()), "this test needs the first model to be the best"
    assert part.kept_step == 4


def test_a_best_model_whose_checkpoint_is_damaged_gives_way_to_the_last(
    worlds: Worlds, sources: Sources, tmp_path: Path
) -> None:
    config = run_of(sources)
    paths = tiny.paths_in(tmp_path)
    (first,) = parts(worlds, config, paths, [STEPS - 1])
    assert first.exit_code == ExitCode.PREEMPTED
    (best,) = {path.name for path in (paths.run(config) / CHECKPOINTS_FOLDER).glob("step-2-*")}
    (state,) = (paths.run(config) / CHECKPOINTS_FOLDER / best).glob("*.safetensors")
    state.write_bytes(state.read_bytes()[:-1])
    second = config.model_copy(update={"attempt": 2, "nonce": "n2"})
    part = worlds(1).run(programs.part, Stage(second, None), paths)[0]
    assert (part.exit_code, part.kept_step) == (ExitCode.DONE, STEPS)
