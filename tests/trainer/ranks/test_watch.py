"""When the watch ends a rank, and which rank the others waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch.distributed as dist

from finetune_trainer.contract import ExitCode, Patience, Phase
from finetune_trainer.ranks.activity import Activity, Moment
from finetune_trainer.ranks.watch import (
    EXPORT_SECONDS,
    LOAD_SECONDS,
    Ending,
    Watch,
    hung,
    patience_with,
    slowest,
    stopped_alone,
)

SHORT = Patience(first_step=60.0, step=0.5, silent=0.4)


def moment(phase: Phase = Phase.TRAIN, steps: int = 5, median: float = 1.0, waits: bool = False) -> Moment:
    return Moment(phase, ticks=40, since=100.0, steps=steps, median_step=median, waits=waits)


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        (moment(), 60.0),
        (moment(median=20.0), 200.0),
        (moment(steps=1), 900.0),
        (moment(Phase.EVAL), 60.0),
        (moment(Phase.SAVE), 900.0),
        (moment(Phase.EXPORT), EXPORT_SECONDS),
        (moment(Phase.CHECK), EXPORT_SECONDS),
        (moment(Phase.LOAD, steps=0), LOAD_SECONDS),
        (moment(waits=True), LOAD_SECONDS),
    ],
)
def test_every_phase_has_its_deadline(now: Moment, seconds: float) -> None:
    assert patience_with(now, Patience()) == seconds


def test_the_slowest_is_who_says_nothing_or_else_who_is_least_far() -> None:
    assert slowest({0: 9, 1: 7, 2: 8}, set()) == 1
    assert slowest({0: 9, 1: 7, 2: 8}, {2}) == 2
    assert slowest({0: 9, 1: 9}, set()) == 0


def test_the_sentence_names_whom_all_wait_for() -> None:
    ending = hung(moment(), 0, {1: 39}, set(), 61.0)
    assert ending == Ending(
        ExitCode.HUNG, "Nothing has moved for 61 s in phase train after 5 steps: all wait for rank 1.", 1
    )


def test_a_stop_request_without_steps_means_that_the_others_are_gone() -> None:
    assert stopped_alone(moment(), now=105.0) is None
    assert stopped_alone(moment(median=20.0), now=150.0) is None
    assert stopped_alone(moment(steps=0), now=1000.0) is None, "the first step may take long"
    ending = stopped_alone(moment(), now=111.0)
    assert ending is not None
    assert (ending.exit_code, ending.is_symptom) == (ExitCode.PREEMPTED, True)


class Ranks:
    """The watches of several ranks over a shared store, in one process."""

    def __init__(self, folder: Path, world: int, stop: Callable[[], bool] = lambda: False) -> None:
        self.activities = [Activity() for _ in range(world)]
        self.stacks = [folder / f"rank-{rank}.stacks.txt" for rank in range(world)]
        self.beat_files = [folder / f"rank-{rank}.beat" for rank in range(world)]
        self.store = dist.HashStore()
        self.ends: dict[int, Ending] = {}
        self.ended = threading.Event()
        self.watches = [
            Watch(
                self.activities[rank],
                self.store,
                rank,
                world,
                SHORT,
                stop,
                self.stacks[rank],
                self.beat_files[rank],
                lambda ending, rank=rank: self._end(rank, ending),
            )
            for rank in range(world)
        ]

    def _end(self, rank: int, ending: Ending) -> None:
        self.ends[rank] = ending
        if len(self.ends) == len(self.watches):
            self.ended.set()


def train_until(ranks: Ranks, done: Callable[[], bool], who: list[int], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"after {seconds} s: {ranks.ends}"
        for rank in who:
            ranks.activities[rank].step()
        time.sleep(0.02)


def test_all_are_out_when_one_does_not_get_on_and_its_stack_is_kept(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 3)
    for activity in ranks.activities:
        activity.enter(Phase.TRAIN)
        activity.step()
        activity.step()
    ranks.activities[0].tick()
    ranks.activities[2].tick()
    with ExitStack() as watched:
        for watch in ranks.watches:
            watched.enter_context(watch)
        assert ranks.ended.wait(20)
    assert {ending.exit_code for ending in ranks.ends.values()} == {ExitCode.HUNG}
    assert {ending.slowest_rank for ending in ranks.ends.values()} == {1}
    assert len({ending.sentence for ending in ranks.ends.values()}) == 1, "what was called out first counts"
    for stacks in ranks.stacks:
        assert "test_all_are_out_when_one_does_not_get_on" in stacks.read_text()


def test_a_file_for_the_agent_is_touched_as_long_as_the_watch_runs(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 1)
    ranks.activities[0].enter(Phase.LOAD)
    times: set[int] = set()

    def has_beaten() -> bool:
        if ranks.beat_files[0].exists():
            times.add(ranks.beat_files[0].stat().st_mtime_ns)
        return len(times) > 1

    with ranks.watches[0]:
        train_until(ranks, has_beaten, who=[])
    ranks.watches[0]._thread.join(20)
    assert not ranks.beat_files[0].exists()


def test_a_stop_while_the_model_is_loaded_takes_all_along(tmp_path: Path) -> None:
    asked = threading.Event()
    ranks = Ranks(tmp_path, 3)
    ranks.watches[2]._stop_requested = asked.is_set
    for activity in ranks.activities:
        activity.enter(Phase.LOAD)
    with ExitStack() as watched:
        for watch in ranks.watches:
            watched.enter_context(watch)
        asked.set()
        assert ranks.ended.wait(20)
    assert {ending.exit_code for ending in ranks.ends.values()} == {ExitCode.PREEMPTED}
    assert [ranks.ends[rank].is_symptom for rank in range(3)] == [True, True, False]
    assert not any(stacks.exists() for stacks in ranks.stacks), "nothing hung"


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_rank_is_noticed_by_its_silence(tmp_path: Path, frozen: int) -> None:
    ranks = Ranks(tmp_path, 2)
    other = 1 - frozen
    ranks.store.set(f"beat/{frozen}", "1 3")
    with ranks.watches[other]:
        train_until(ranks, lambda: bool(ranks.ends), [other])
    assert ranks.ends[other].slowest_rank == frozen
    assert f"rank {frozen} does not even say that it lives" in ranks.ends[other].sentence


def test_nobody_is_ended_while_all_get_on_or_wait(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 2)
    for activity in ranks.activities:
        activity.enter(Phase.TRAIN)
        activity.step()
        activity.step()
    began = time.monotonic()
    with ExitStack() as watched:
        for watch in ranks.watches:
            watched.enter_context(watch)
        watched.enter_context(ranks.activities[1].waiting())
        train_until(ranks, lambda: time.monotonic() - began > 4 * SHORT.step, [0])
    assert not ranks.ends


def test_a_store_that_is_gone_ends_the_rank_as_a_symptom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_trainer.ranks.watch.TELLING_SECONDS", 0.1)
    ranks = Ranks(tmp_path, 2)
    ranks.watches[1]._store = None
    with ranks.watches[1]:
        train_until(ranks, lambda: bool(ranks.ends), [1])
    assert ranks.ends[1].is_symptom
    assert ranks.ends[1].sentence.startswith("Rank 0's pod does not answer any more")
    assert (ranks.ends[1].slowest_rank, ranks.ends[1].is_symptom) == (0, True)
