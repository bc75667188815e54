"""The agent ends a rank that is its world's only one and shows no activity."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune_trainer.agent.polling import POLLS
from finetune_trainer.agent.silence import Silence
from finetune_trainer.contract import RankExit, rank_beat_file, rank_exit_file
from finetune_trainer.pod.scratch import Scratch


class Rank:
    """A rank whose file the test touches."""

    def __init__(self, folder: Path, patience: float = 30.0) -> None:
        self.exit_file = folder / rank_exit_file(0)
        self.beat_file = folder / rank_beat_file(0)
        self.killed: list[int] = []
        self.silence = Silence(Scratch(folder), patience, lambda: self.killed.append(0))
        self._time = 1_000_000_000

    def beat(self) -> None:
        self.beat_file.touch()
        self._time += 1_000_000
        os.utime(self.beat_file, ns=(self._time, self._time))

    def is_silent_after(self, looks: int) -> bool:
        return any(self.silence.is_silent() for _ in range(looks))


@pytest.fixture
def rank(tmp_path: Path) -> Rank:
    return Rank(tmp_path)


def test_a_rank_whose_file_stays_unchanged_is_silent(rank: Rank) -> None:
    rank.beat()
    assert not rank.is_silent_after(POLLS)
    assert rank.is_silent_after(1)


def test_a_single_beat_begins_the_patience_anew(rank: Rank) -> None:
    for _ in range(5):
        rank.beat()
        assert not rank.is_silent_after(POLLS)


def test_a_rank_without_a_file_is_not_watched(rank: Rank) -> None:
    assert not rank.is_silent_after(3 * POLLS)
    rank.beat()
    assert not rank.is_silent_after(1)
    rank.beat_file.unlink()
    assert not rank.is_silent_after(3 * POLLS)


def end_of(rank: Rank) -> RankExit:
    rank.beat()
    with rank.silence:
        while not rank.killed:
            rank.silence._closing.wait(0.01)
    assert rank.killed == [0]
    return RankExit.model_validate_json(rank.exit_file.read_bytes())


def test_a_silent_rank_is_killed_and_its_last_word_is_written_for_it(tmp_path: Path) -> None:
    left = end_of(Rank(tmp_path, patience=0.1))
    assert (left.exit_code, left.slowest_rank) == (79, 0)
    assert left.error == "Rank 0 has shown no sign of life for 0 s: its process is frozen."


def test_the_word_of_a_rank_that_has_said_why_it_ends_stays(tmp_path: Path) -> None:
    rank = Rank(tmp_path, patience=0.1)
    rank.exit_file.write_text(RankExit(rank=0, exit_code=77, error="Diverged.").to_json())
    assert end_of(rank).error == "Diverged."
