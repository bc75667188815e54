"""When the agent ends a rank that shows no sign of life."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune_trainer.agent.silence import LOOKS, Silence
from finetune_trainer.contract import RankExit, rank_beat_file, rank_exit_file
from finetune_trainer.pod.scratch import Scratch


class Ranks:
    """Two ranks whose files the test touches; `killed` are those that the agent has ended."""

    def __init__(self, folder: Path, patience: float = 30.0) -> None:
        self.folder = folder
        self.killed: list[int] = []
        self.silence = Silence(Scratch(folder), range(2), patience, self.killed.append)
        self._time = 1_000_000_000

    def beat(self, rank: int) -> None:
        file = self.folder / rank_beat_file(rank)
        file.touch()
        self._time += 1_000_000
        os.utime(file, ns=(self._time, self._time))


@pytest.fixture
def ranks(tmp_path: Path) -> Ranks:
    return Ranks(tmp_path)


def test_a_rank_whose_file_stays_unchanged_is_reported_once(ranks: Ranks) -> None:
    ranks.beat(0)
    ranks.beat(1)
    reported = []
    for _ in range(3 * LOOKS):
        ranks.beat(1)
        reported += ranks.silence.look()
    assert reported == [0]


def test_a_single_beat_begins_the_patience_anew(ranks: Ranks) -> None:
    ranks.beat(0)
    for _ in range(5):
        for _ in range(LOOKS - 1):
            assert ranks.silence.look() == []
        ranks.beat(0)


def test_a_rank_without_a_file_is_not_watched(ranks: Ranks) -> None:
    assert not any(ranks.silence.look() for _ in range(3 * LOOKS))
    ranks.beat(0)
    ranks.silence.look()
    (ranks.folder / rank_beat_file(0)).unlink()
    assert not any(ranks.silence.look() for _ in range(3 * LOOKS))


def test_a_silent_rank_is_killed_and_its_last_word_is_written_for_it(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, patience=0.1)
    ranks.beat(1)
    with ranks.silence:
        while not ranks.killed:
            ranks.silence._closing.wait(0.01)
    assert ranks.killed == [1]
    left = RankExit.model_validate_json((tmp_path / rank_exit_file(1)).read_bytes())
    assert (left.exit_code, left.slowest_rank) == (79, 1)
    assert left.error == "Rank 1 has shown no sign of life for 0 s: its process is frozen."
