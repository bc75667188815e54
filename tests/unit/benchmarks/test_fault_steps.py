"""The lost steps, and the seconds until all ranks train again, from the times of the ranks' steps."""

from pathlib import Path

import pytest
from fault_scoreboard.steps import RankSteps, fewest, read_steps, steps_lost, training_again


def ranks(attempt: int, *times: tuple[float, ...]) -> list[RankSteps]:
    return [RankSteps(attempt, rank, 100 + rank, of_rank) for rank, of_rank in enumerate(times)]


def test_files_are_read_by_attempt_and_rank_without_a_line_in_the_making(tmp_path: Path) -> None:
    (tmp_path / "2-0-31").write_text("5.0\n6.")
    (tmp_path / "1-1-12").write_text("")
    (tmp_path / "1-0-11").write_text("1.5\n2.5\n")
    assert read_steps(tmp_path) == [
        RankSteps(1, 0, 11, (1.5, 2.5)),
        RankSteps(1, 1, 12, ()),
        RankSteps(2, 0, 31, (5.0,)),
    ]


def test_a_rank_that_has_not_begun_has_done_no_step() -> None:
    assert fewest(ranks(1, (1.0, 2.0), (1.0,)), 1, world=2) == 1
    assert fewest(ranks(1, (1.0, 2.0)), 1, world=2) == 0
    assert fewest([], 1, world=2) == 0


def test_lost_are_the_steps_that_rank_0_did_again() -> None:
    steps = ranks(1, (1.0, 2.0, 3.0), (1.0, 2.0)) + ranks(2, (8.0, 9.0), (8.0, 9.0))
    assert steps_lost(steps, needed=4) == 1
    assert steps_lost(steps, needed=5) == 0


def test_a_step_that_was_skipped_is_no_gain() -> None:
    assert steps_lost(ranks(1, (1.0, 2.0)), needed=3) == 0


def test_training_goes_on_when_the_last_rank_of_the_next_attempt_has_done_a_step() -> None:
    steps = ranks(1, (1.0, 2.0, 3.5), (1.0, 2.0, 3.5)) + ranks(2, (9.0, 10.0), (9.5, 10.0))
    assert training_again(steps, 3.0, [2, 2]) == pytest.approx(6.5)


def test_an_attempt_that_did_no_step_does_not_count() -> None:
    steps = ranks(1, (1.0,), (1.0,)) + ranks(2, (), ()) + ranks(3, (30.0,))
    assert training_again(steps, 3.0, [2, 2, 1]) == pytest.approx(27.0)


def test_without_a_new_attempt_the_next_common_step_counts() -> None:
    assert training_again(ranks(1, (1.0, 3.2), (1.0, 3.1)), 3.0, [2]) == pytest.approx(0.2)


@pytest.mark.parametrize("second", [(), (1.0, 2.0)])
def test_ranks_that_wait_for_one_do_not_train(second: tuple[float, ...]) -> None:
    assert training_again(ranks(1, (1.0, 3.2), second), 3.0, [2]) is None
    assert training_again(ranks(1, (1.0, 2.0), (1.0, 2.0)) + ranks(2, (9.0,), second and ()), 3.0, [2, 2]) is None
