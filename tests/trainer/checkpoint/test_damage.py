"""Damaged checkpoints, full disks and deleted folders cost time, but never the training or a correct result."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from trainer import programs, tiny
from trainer.programs import Part, Stage
from trainer.worlds import Worlds

from finetune_trainer import contract
from finetune_trainer.checkpoint.files import found
from finetune_trainer.contract import Checkpointing, ExitCode, RunConfig
from finetune_trainer.pod.paths import Paths

STEPS = 8


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("sources")
    model = tiny.save_model(folder / "model", tiny.SEQUENCE, tiny.bert(dropout=0.1))
    rows = tiny.make_rows(folder / "rows", tiny.SEQUENCE, 36)
    every_step = Checkpointing(every_seconds=1e-6, keep=2)
    return tiny.run_config(tiny.SEQUENCE, model, rows, world=2, stage=2, max_steps=STEPS, checkpoint=every_step)


@pytest.fixture(scope="module")
def whole(worlds: Worlds, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Part:
    """Return rank 0's part of the undisturbed training."""
    paths = tiny.paths_in(tmp_path_factory.mktemp("whole"))
    answer: Part = worlds(2).run(programs.part, Stage(config), paths)[0]
    return answer


@pytest.fixture(scope="module")
def stopped(worlds: Worlds, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a training that was stopped after its sixth step."""
    folder = tmp_path_factory.mktemp("stopped")
    answer = worlds(2).run(programs.part, Stage(config, stop_after=5), tiny.paths_in(folder))[0]
    assert answer.exit_code == ExitCode.PREEMPTED
    return folder


def checkpoints(paths: Paths, config: RunConfig) -> list[Path]:
    return [checkpoint.path for checkpoint in found(paths.run(config) / "checkpoints")]


def second(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"attempt": 2, "nonce": "again"})


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_any_damaged_file_of_the_newest_checkpoint_sends_the_training_to_the_one_before(
    worlds: Worlds, config: RunConfig, whole: Part, stopped: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    for number, name in enumerate(("manifest.json", "state-0-0.safetensors")):
        shutil.copytree(stopped, tmp_path / str(number))
        paths = tiny.paths_in(tmp_path / str(number))
        newest, before, _best = checkpoints(paths, config)
        assert {file.name for file in newest.iterdir()} == {"manifest.json", "state-0-0.safetensors"}
        damage(newest / name)
        resumed = worlds(2).run(programs.part, Stage(second(config)), paths)[0]
        assert (resumed.exit_code, resumed.began_after) == (0, 5)
        assert resumed.losses == whole.losses[5:]
        assert resumed.digest == whole.digest
        assert newest not in checkpoints(paths, config), "what cannot be trusted goes when there is a newer one"
        assert before not in checkpoints(paths, config)


def test_the_damage_is_told_with_its_path_until_the_next_checkpoint(
    worlds: Worlds, config: RunConfig, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "copy")
    paths = tiny.paths_in(tmp_path / "copy")
    truncate(checkpoints(paths, config)[0] / "state-0-0.safetensors")
    seldom = second(config).model_copy(update={"checkpoint": Checkpointing(every_seconds=3600, keep=2)})
    resumed = worlds(2).run(programs.part, Stage(seldom), paths)[0]
    first, last = resumed.told[0], resumed.told[-1]
    assert first is not None
    assert last is not None
    assert first.failure is not None
    assert "runs/1-abcdef12/checkpoints/step-6-a1/state-0-0.safetensors has" in first.failure
    assert (first.step, last.failure) == (5, None)


def test_without_any_checkpoint_to_trust_nothing_is_trained(
    worlds: Worlds, config: RunConfig, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "copy")
    paths = tiny.paths_in(tmp_path / "copy")
    for checkpoint in checkpoints(paths, config):
        truncate(checkpoint / "state-0-0.safetensors")
    resumed = worlds(2).run(programs.part, Stage(second(config)), paths)[0]
    assert (resumed.exit_code, resumed.losses) == (ExitCode.UNTRUSTED, [])
    assert resumed.error.startswith("none of 3 checkpoints can be trusted: runs/1-abcdef12/checkpoints/step-6-a1/state")
    assert "retrain.request" in resumed.error


def test_a_checkpoint_of_other_data_is_not_resumed(
    worlds: Worlds, config: RunConfig, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "copy")
    paths = tiny.paths_in(tmp_path / "copy")
    seed = config.training.model_copy(update={"seed": 18})
    resumed = worlds(2).run(programs.part, Stage(second(config).model_copy(update={"training": seed})), paths)[0]
    assert resumed.exit_code == ExitCode.UNTRUSTED
    assert "belongs to another training: its config is" in resumed.error


def test_a_model_that_does_not_answer_as_it_did_is_refused(
    worlds: Worlds, config: RunConfig, stopped: Path, tmp_path: Path
) -> None:
    """All files pass verification, but the start model, which holds the adapter's frozen weights, was changed."""
    lora = contract.Lora(rank=4, alpha=8, dropout=0.0)
    config = config.model_copy(update={"lora": lora})
    paths = tiny.paths_in(tmp_path)
    assert worlds(2).run(programs.part, Stage(config, stop_after=3), paths)[0].exit_code == ExitCode.PREEMPTED
    start = paths.run(config) / "start" / "model.safetensors"
    save_file({name: 1.5 * weight for name, weight in load_file(start).items()}, start, {"format": "pt"})
    resumed = worlds(2).run(programs.part, Stage(second(config)), paths)[0]
    assert resumed.exit_code == ExitCode.UNTRUSTED
    assert "does not answer as it did when it was saved" in resumed.error


@pytest.mark.parametrize(
    ("fault", "words"),
    [("full", "File too large"), ("deleted", None), ("replaced", "Not a directory")],
)
def test_a_checkpoint_that_cannot_be_written_costs_nothing_but_itself(
    worlds: Worlds, config: RunConfig, whole: Part, tmp_path: Path, fault: str, words: str | None
) -> None:
    paths = tiny.paths_in(tmp_path)
    stage = Stage(config, disk_fault=(5, fault))  # type: ignore[arg-type]
    disturbed = worlds(2).run(programs.part, stage, paths)[0]
    assert disturbed.exit_code == 0, disturbed.error
    assert (disturbed.losses, disturbed.digest) == (whole.losses, whole.digest)
    told = disturbed.told[4]
    assert told is not None
    if words is None:
        assert (told.step, told.failure) == (5, None)
    else:
        assert told.step == 4
        assert told.failure is not None
        assert "checkpoints/step-5-a1 could not be written" in told.failure
        assert words in told.failure
    assert not list((paths.run(config) / "checkpoints").glob(".step-*")), "nothing half done is left"
    assert checkpoints(paths, config)[0].name == f"step-{STEPS}-a1"
