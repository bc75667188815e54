"""A training that was stopped resumes with the same results, in any world and at any stage."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from trainer import programs, tiny
from trainer.programs import Part, Stage
from trainer.worlds import Worlds

from finetune_trainer import contract
from finetune_trainer.checkpoint.files import CHECKPOINTS_FOLDER, Found, found
from finetune_trainer.contract import ExitCode, RunConfig
from finetune_trainer.pod.paths import Paths

STEPS = 9
LORA = contract.Lora(rank=4, alpha=8, dropout=0.1)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a model with dropout, and rows of which an epoch takes four steps."""
    folder = tmp_path_factory.mktemp("sources")
    return tiny.save_model(folder / "model", tiny.SEQUENCE, tiny.bert(dropout=0.1)), tiny.make_rows(
        folder / "rows", tiny.SEQUENCE, 36
    )


def config_of(sources: tuple[Path, Path], stage: int, lora: contract.Lora | None, **changes: Any) -> RunConfig:
    return tiny.run_config(
        tiny.SEQUENCE, *sources, stage=stage, lora=lora, max_steps=STEPS, micro_batch_size=2, **changes
    )


def attempt(config: RunConfig, number: int, world: int, **changes: Any) -> RunConfig:
    """Return another attempt of the same run, in a world of that size."""
    size = contract.World(nodes=1, processes_per_node=world, device="cpu")
    return config.model_copy(update={"attempt": number, "nonce": f"n{number}", "world": size, **changes})


def trained(
    worlds: Worlds, paths: Paths, config: RunConfig, parts: list[tuple[int, int | None]], **changes: Any
) -> Any:
    """Run the parts as successive attempts of one run.

    Each part is a pair: the number of ranks, and the step after which the attempt is asked to stop.
    """
    done: list[Part] = []
    for number, (world, stop_after) in enumerate(parts, 1):
        stage = Stage(attempt(config, number, world), stop_after)
        done.append(worlds(world).run(programs.part, stage, paths)[0])
    return done


CASES = list(itertools.product((0, 1, 2, 3), (None, LORA)))


@pytest.mark.parametrize(("stage", "lora"), CASES, ids=[f"zero{s}-{'lora' if lora else 'full'}" for s, lora in CASES])
def test_the_same_world_goes_on_bit_by_bit(
    worlds: Worlds, sources: tuple[Path, Path], tmp_path: Path, stage: int, lora: contract.Lora | None
) -> None:
    config = config_of(sources, stage, lora)
    (whole,) = trained(worlds, tiny.paths_in(tmp_path / "whole"), config, [(2, None)])
    paths = tiny.paths_in(tmp_path / "parts")
    parts = trained(worlds, paths, config, [(2, 2), (2, 4), (2, None)])
    assert [(part.exit_code, part.began_after) for part in parts] == [
        (ExitCode.PREEMPTED, 0),
        (ExitCode.PREEMPTED, 3),
        (ExitCode.DONE, 4),
    ], parts
    assert [loss for part in parts for loss in part.losses] == whole.losses
    assert parts[-1].digest == whole.digest


@pytest.mark.parametrize(("stage", "lora"), CASES, ids=[f"zero{s}-{'lora' if lora else 'full'}" for s, lora in CASES])
def test_another_world_goes_on_within_rounding(
    worlds: Worlds, sources: tuple[Path, Path], tmp_path: Path, stage: int, lora: contract.Lora | None
) -> None:
    config = config_of(sources, stage, lora)
    (whole,) = trained(worlds, tiny.paths_in(tmp_path / "whole"), config, [(2, None)])
    parts = trained(worlds, tiny.paths_in(tmp_path / "parts"), config, [(1, 3), (2, 6), (4, 8), (1, None)])
    assert [part.began_after for part in parts] == [0, 4, 7, 8], parts
    assert [loss for part in parts for loss in part.losses] == pytest.approx(whole.losses, rel=1e-4)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_portable_checkpoint_crosses_stages(
    worlds: Worlds, sources: tuple[Path, Path], tmp_path: Path, stage: int
) -> None:
    config = config_of(sources, stage, LORA)
    other = config.model_copy(update={"zero_stage": {0: 3, 2: 0, 3: 1}[stage]})
    (whole,) = trained(worlds, tiny.paths_in(tmp_path / "whole"), config, [(2, None)])
    paths = tiny.paths_in(tmp_path / "parts")
    first = worlds(2).run(programs.part, Stage(attempt(config, 1, 2), 4), paths)[0]
    second = worlds(2).run(programs.part, Stage(attempt(other, 2, 2)), paths)[0]
    assert second.began_after == 4
    assert [*first.losses, *second.losses] == pytest.approx(whole.losses, rel=1e-4)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_goes_on_bit_by_bit(
    worlds: Worlds, sources: tuple[Path, Path], tmp_path: Path, stage: int, lora: contract.Lora | None
) -> None:
    config = config_of(sources, stage, lora, precision="bf16")
    (whole,) = trained(worlds, tiny.paths_in(tmp_path / "whole"), config, [(2, None)])
    parts = trained(worlds, tiny.paths_in(tmp_path / "parts"), config, [(2, 4), (2, None)])
    assert parts[1].began_after == 4
    assert [loss for part in parts for loss in part.losses] == whole.losses
    assert parts[-1].digest == whole.digest


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_smaller_plan_after_memory_ran_out_trains_the_same(
    worlds: Worlds, tmp_path: Path, lora: contract.Lora | None
) -> None:
    """Dropout is off, because another size of micro-batch would draw other dropout masks for the same objective."""
    model = tiny.save_model(tmp_path / "model", tiny.SEQUENCE, tiny.bert())
    rows = tiny.make_rows(tmp_path / "rows", tiny.SEQUENCE, 36)
    lora = lora and lora.model_copy(update={"dropout": 0.0})
    config = config_of((model, rows), 2, lora)
    (whole,) = trained(worlds, tiny.paths_in(tmp_path / "whole"), config, [(2, None)])
    paths = tiny.paths_in(tmp_path / "parts")
    parts = []
    for number, smaller in enumerate(({}, {"micro_batch_size": 1}, {"activation_checkpointing": True}), 1):
        training = config.training.model_copy(update=smaller)
        stage = Stage(attempt(config, number, 2, training=training), {1: 2, 2: 5}.get(number))
        parts.append(worlds(2).run(programs.part, stage, paths)[0])
    assert [part.began_after for part in parts] == [0, 3, 6]
    assert [loss for part in parts for loss in part.losses] == pytest.approx(whole.losses, rel=1e-4)


def test_activation_checkpointing_changes_nothing_but_memory(
    worlds: Worlds, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    config = config_of(sources, 2, LORA)
    (kept,) = trained(worlds, tiny.paths_in(tmp_path / "kept"), config, [(2, None)])
    again = config.training.model_copy(update={"activation_checkpointing": True})
    paths = tiny.paths_in(tmp_path / "again")
    (computed,) = trained(worlds, paths, config.model_copy(update={"training": again}), [(2, None)])
    assert (computed.losses, computed.digest) == (kept.losses, kept.digest)


def test_an_outdated_attempt_leaves_and_writes_nothing_more(
    worlds: Worlds, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    every_step = contract.Checkpointing(every_seconds=1e-6, keep=3)
    config = config_of(sources, 2, None, checkpoint=every_step)
    paths = tiny.paths_in(tmp_path)
    overtaken = worlds(2).run(programs.overtaken_part, Stage(attempt(config, 1, 2), 3), paths)[0]
    assert (overtaken.exit_code, len(overtaken.losses)) == (ExitCode.SUPERSEDED, 4)
    assert [found.step for found in found_in(paths, config)] == [3, 2, 1]
    newer = worlds(2).run(programs.part, Stage(attempt(config, 2, 2)), paths)[0]
    assert (newer.exit_code, newer.began_after) == (ExitCode.DONE, 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_fifty_stops_and_as_many_changes_of_the_world_leave_the_loss_as_it_is(
    worlds: Worlds, sources: tuple[Path, Path], tmp_path: Path, stage: int
) -> None:
    chance = random.Random(1)
    config = config_of(sources, stage, None)
    config = config.model_copy(update={"training": config.training.model_copy(update={"max_steps": 200})})
    (whole,) = trained(worlds, tiny.paths_in(tmp_path / "whole"), config, [(2, None)])
    after = sorted(2 * half for half in chance.sample(range(1, 100), 50))
    stops = [*(step - 1 for step in after), None]
    parts = trained(
        worlds, tiny.paths_in(tmp_path / "parts"), config, [(chance.choice((1, 2, 4)), stop) for stop in stops]
    )
    assert [part.began_after for part in parts] == [0, *after]
    assert [loss for part in parts for loss in part.losses] == pytest.approx(whole.losses, rel=1e-4)


def found_in(paths: Paths, config: RunConfig) -> list[Found]:
    return found(paths.run(config) / CHECKPOINTS_FOLDER)
