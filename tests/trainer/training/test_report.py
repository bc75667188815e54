"""What a rank reports: complete files for the agent, written seldom, and every step in metrics.jsonl."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer.fixtures_data import run_config, workspace

from finetune_trainer import contract
from finetune_trainer.checkpoint.files import Position
from finetune_trainer.contract import CheckpointReport, Phase, Progress, RankStatus
from finetune_trainer.pod.paths import Paths
from finetune_trainer.ranks.activity import Activity
from finetune_trainer.ranks.requests import Asked
from finetune_trainer.training import report
from finetune_trainer.training.metrics_files import read_metrics
from finetune_trainer.training.report import Report
from finetune_trainer.training.steps import Step

CONFIG = run_config(zero_stage=2)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return workspace(tmp_path)


def status(paths: Paths, rank: int = 0) -> RankStatus:
    return RankStatus.model_validate_json((paths.scratch / contract.rank_status_file(rank)).read_text())


def progress(paths: Paths) -> Progress:
    return Progress.model_validate_json((paths.scratch / contract.PROGRESS_FILE).read_text())


def begun(paths: Paths) -> Report:
    """Return the report of rank 0, begun."""
    told = Report(CONFIG, paths, 0, "gloo", Activity())
    told.begin()
    return told


def step(to: Report, number: int, loss: float = 1.5, tokens: int = 100, **fields: Any) -> None:
    done = Step(number, loss, 0.7, 2e-4, tokens, 8, Asked(stop=False, save=False, make_way=False), **fields)
    to.step(done, 40, Position(step=number, epoch=number / 10, evaluated=True), None)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "nothing was written in 10 s"
        time.sleep(0.01)


def test_every_rank_attests_itself_at_once(paths: Paths) -> None:
    with Report(CONFIG, paths, 3, "gloo", Activity()):
        attested = status(paths, rank=3)
    assert attested.model_dump(exclude={"heartbeat"}) == {
        "rank": 3,
        "world": 1,
        "config_digest": CONFIG.digest,
        "backend": "gloo",
        "zero_stage": 2,
        "phase": Phase.INIT,
        "step": 0,
    }


def test_phase_step_and_progress_reach_the_agent_without_another_call(paths: Paths) -> None:
    with begun(paths) as told:
        told.phase(Phase.TRAIN)
        wait_for(lambda: status(paths).phase == Phase.TRAIN)
        for number in range(1, 31):
            step(told, number)
        wait_for(lambda: status(paths).step == 30)
        wait_for(lambda: (paths.scratch / contract.PROGRESS_FILE).exists() and progress(paths).step == 30)
    assert (progress(paths).total_steps, progress(paths).epoch, progress(paths).loss) == (40, 3.0, 1.5)


def test_the_heartbeat_stands_still_when_training_does(paths: Paths) -> None:
    with begun(paths) as told:
        step(told, 1)
        wait_for(lambda: status(paths).step == 1)
        before = status(paths).heartbeat
    assert status(paths).heartbeat == before, "closing writes once more, but nothing has happened"


def test_tiny_steps_are_not_slowed_by_writing_and_the_last_is_written(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = report.write_atomically

    def counted(path: Path, text: str) -> None:
        written.append(path.name)
        write(path, text)

    monkeypatch.setattr(report, "write_atomically", counted)
    began = time.monotonic()
    with begun(paths) as told:
        for number in range(1, 2001):
            step(told, number)
    seconds = time.monotonic() - began
    assert progress(paths).step == status(paths).step == 2000
    at_start_and_end = 2
    assert written.count(contract.PROGRESS_FILE) <= seconds / report.SECONDS_BETWEEN_WRITES + at_start_and_end + 1


def test_speed_and_remaining_time_come_from_the_recent_steps(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: clock[0])
    with begun(paths) as told:
        for number, seconds in enumerate((60.0, *[2.0] * 9), 1):
            clock[0] += seconds
            step(told, number, tokens=300)
        clock[0] += 500
        told.phase(Phase.EVAL)
        told.phase(Phase.TRAIN)
        clock[0] += 2
        step(told, 11, tokens=300)
    assert progress(paths).tokens_per_second == pytest.approx(150)
    assert progress(paths).samples_per_second == pytest.approx(4)
    assert progress(paths).eta_seconds == pytest.approx(2 * 29)


def test_pictures_have_samples_and_no_tokens_per_second(paths: Paths) -> None:
    with begun(paths) as told:
        step(told, 1, tokens=0)
    assert progress(paths).tokens_per_second is None
    assert progress(paths).samples_per_second


def test_metrics_have_one_line_for_each_step_and_evaluation(paths: Paths) -> None:
    with begun(paths) as told:
        told.evaluation(0, 0.0, {"accuracy": 0.3}, "base")
        step(told, 1)
        step(told, 2, loss=math.nan)
        told.evaluation(2, 1.0, {"accuracy": 0.9}, "final")
        records = read_metrics(paths.run(CONFIG))
    assert [record["step"] for record in records] == [0, 1, 2, 2]
    assert records[0]["split"] == "base"
    assert records[3] | {"time": 0} == {
        "step": 2,
        "epoch": 1.0,
        "split": "final",
        "metrics": {"accuracy": 0.9},
        "time": 0,
    }
    assert {key: records[1][key] for key in ("epoch", "loss", "learningRate", "gradNorm")} == {
        "epoch": 0.1,
        "loss": 1.5,
        "learningRate": 2e-4,
        "gradNorm": 0.7,
    }
    assert records[2]["loss"] is None
    assert progress(paths).loss is None
    for line in (paths.run(CONFIG) / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_tensorboard_has_the_same_curves(paths: Paths) -> None:
    with begun(paths) as told:
        step(told, 1, loss=2.0)
        step(told, 2, loss=1.0)
        told.evaluation(2, 1.0, {"accuracy": 0.5}, "epoch")
    events = EventAccumulator(str(paths.run(CONFIG) / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2.0), (2, 1.0)]
    assert [(event.step, event.value) for event in events.Scalars("evaluation/accuracy")] == [(2, 0.5)]


def test_only_rank_0_writes_into_the_run(paths: Paths) -> None:
    with Report(CONFIG, paths, 1, "gloo", Activity()) as told:
        told.begin()
        step(told, 1)
        told.evaluation(1, 0.1, {"accuracy": 0.3}, "epoch")
    assert not paths.run(CONFIG).exists()
    assert not (paths.scratch / contract.PROGRESS_FILE).exists()
    assert status(paths, rank=1).step == 1


def test_a_resumed_run_has_every_step_and_evaluation_once(paths: Paths) -> None:
    with begun(paths) as told:
        told.evaluation(0, 0.0, {"accuracy": 0.3}, "base")
        for number in (1, 2, 3, 4, 5):
            step(told, number, loss=number)
            if number == 4:
                told.evaluation(4, 0.4, {"accuracy": 0.4}, "epoch")
    with (paths.run(CONFIG) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    checkpoint = CheckpointReport(step=4, time=1.0, bytes=1, save_seconds=1.0)
    with Report(CONFIG, paths, 0, "gloo", Activity()) as told:
        told.resume(Position(step=4, epoch=0.4, evaluated=True), {"accuracy": 0.3}, checkpoint)
        for number in (5, 6):
            step(told, number, loss=number)
        wait_for(lambda: (paths.scratch / contract.CHECKPOINT_FILE).exists())
        records = read_metrics(paths.run(CONFIG))
    assert [(record["step"], record.get("split")) for record in records] == [
        (0, "base"),
        (1, None),
        (2, None),
        (3, None),
        (4, None),
        (4, "epoch"),
        (5, None),
        (6, None),
    ]
    events = EventAccumulator(str(paths.run(CONFIG) / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(n, n) for n in range(1, 7)]


def test_an_evaluation_that_was_interrupted_is_told_once(paths: Paths) -> None:
    with begun(paths) as told:
        step(told, 1)
        told.evaluation(1, 0.1, {"accuracy": 0.4}, "epoch")
    checkpoint = CheckpointReport(step=1, time=1.0, bytes=1, save_seconds=1.0)
    with Report(CONFIG, paths, 0, "gloo", Activity()) as told:
        told.resume(Position(step=1, epoch=0.1, evaluated=False), {"accuracy": 0.3}, checkpoint)
        told.evaluation(1, 0.1, {"accuracy": 0.5}, "epoch")
        records = read_metrics(paths.run(CONFIG))
    assert [record.get("metrics") for record in records] == [{"accuracy": 0.3}, None, {"accuracy": 0.5}]


def test_metrics_that_someone_deleted_begin_with_the_base(paths: Paths) -> None:
    checkpoint = CheckpointReport(step=2, time=1.0, bytes=1, save_seconds=1.0)
    with Report(CONFIG, paths, 0, "gloo", Activity()) as told:
        told.resume(Position(step=2, epoch=0.2, evaluated=True), {"accuracy": 0.3}, checkpoint)
        records = read_metrics(paths.run(CONFIG))
    assert [record["split"] for record in records] == ["base"]


def test_a_full_disk_costs_no_record(paths: Paths, tmp_path: Path) -> None:
    """/dev/full fails as a full disk does."""
    with begun(paths) as told:
        files = told._metrics
        assert files is not None
        good = files._file
        with Path("/dev/full").open("wb", buffering=0) as full:
            files._file = full
            step(told, 1)
            step(told, 2)
        files._file = good
        step(told, 3)
        assert [record["step"] for record in read_metrics(paths.run(CONFIG))] == [1, 2, 3]


def test_a_checkpoint_that_failed_is_told_beside_the_one_before(paths: Paths) -> None:
    with begun(paths) as told:
        told.checkpoint(CheckpointReport(step=4, time=1.0, bytes=7, save_seconds=1.0))
        told.checkpoint("runs/1/checkpoints/step-8-a1 could not be written: No space left on device")
    report = CheckpointReport.model_validate_json((paths.scratch / contract.CHECKPOINT_FILE).read_text())
    assert (report.step, report.failure) == (
        4,
        "runs/1/checkpoints/step-8-a1 could not be written: No space left on device",
    )


def test_skipped_steps_name_their_rows(paths: Paths) -> None:
    with begun(paths) as told:
        step(told, 1, loss=math.nan, bad_rows=("rows.jsonl line 7",))
        step(told, 2)
        records = read_metrics(paths.run(CONFIG))
    assert [record.get("skippedRows") for record in records] == [None, None]
