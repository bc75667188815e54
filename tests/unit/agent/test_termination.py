"""The cause of a pod's end, derived from the files of its ranks and how their processes ended."""

from __future__ import annotations

import pytest
from unit.agent.pod import run_config

from finetune_trainer.agent import termination
from finetune_trainer.agent.termination import Cause, End, cause_of
from finetune_trainer.contract import (
    ExitCode,
    Phase,
    RankExit,
    RankStatus,
    Result,
)

CONFIG = run_config(nodes=2, processes_per_node=2)
RESULT = Result(path="p", digest="d", base_metrics={}, metrics={}, step=1, trainable_parameters=1, parameters=1)


def left(rank: int, code: int, time: float | None = None, error: str | None = None, **fields: object) -> RankExit:
    attested = {"world": 4, "config_digest": CONFIG.digest}
    return RankExit(rank=rank, exit_code=code, error=error, error_time=time, **(attested | fields))  # type: ignore[arg-type]


def end(*exits: RankExit, index: int = 0, **observed: object) -> End:
    codes = {e.rank: e.exit_code for e in exits}
    observed = {"codes": codes, "time": 100.0} | observed
    return End(config=CONFIG, index=index, exits={e.rank: e for e in exits}, **observed)  # type: ignore[arg-type]


def alive(rank: int, heartbeat: float, step: int = 0) -> dict[int, RankStatus]:
    status = RankStatus(
        rank=rank,
        world=4,
        config_digest=CONFIG.digest,
        backend="gloo",
        zero_stage=2,
        phase=Phase.TRAIN,
        step=step,
        heartbeat=heartbeat,
    )
    return {rank: status}


def test_all_ranks_done_and_a_result_is_success() -> None:
    assert cause_of(end(left(0, 0, result=RESULT), left(1, 0))) == Cause(ExitCode.DONE)


def test_only_pod_zero_needs_a_result() -> None:
    assert cause_of(end(left(2, 0), left(3, 0), index=1)) == Cause(ExitCode.DONE)
    assert cause_of(end(left(0, 0), left(1, 0))).exit_code == 1


@pytest.mark.parametrize(
    ("first", "second", "code", "rank"), [(1.0, 2.0, 77, 0), (2.0, 1.0, 76, 1), (None, 9.0, 76, 1)]
)
def test_the_earliest_error_is_the_cause(first: float | None, second: float, code: int, rank: int) -> None:
    cause = cause_of(end(left(0, 77, first, "A."), left(1, 76, second, "B.")))
    assert (cause.exit_code, cause.rank) == (code, rank)


def test_a_rank_that_failed_outweighs_one_that_vanished_if_its_failure_has_a_class() -> None:
    assert cause_of(end(left(0, 77, 5.0, "Diverged."), codes={0: 77}, oom_killed=True)).exit_code == 77


def test_a_killed_rank_outweighs_a_sibling_that_noticed() -> None:
    noticed = left(0, 1, 50.0, "Connection closed by peer.")
    cause = cause_of(end(noticed, codes={0: 1, 1: -9}, statuses=alive(1, 48.0)))
    assert cause == Cause(137, 1, "Rank 1 was killed by signal 9 (SIGKILL).", 48.0)


def test_a_rank_killed_by_another_signal_is_128_and_the_signal() -> None:
    cause = cause_of(end(index=1, codes={3: -7}))
    assert cause == Cause(135, 3, "Rank 3 was killed by signal 7 (SIGBUS).", 100.0)


def test_an_oom_kill_explains_a_rank_without_a_word() -> None:
    assert cause_of(end(left(0, 1, 50.0), codes={1: -9}, oom_killed=True)).exit_code == ExitCode.OUT_OF_MEMORY
    noticed = (left(0, 1), left(1, 1))
    assert cause_of(end(*noticed, store_code=-9, oom_killed=True)).exit_code == ExitCode.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("store_code", "code", "ended"), [(-9, 137, "was killed by signal 9 (SIGKILL)"), (2, 1, "ended with exit code 2")]
)
def test_ranks_that_lost_the_store_notice_it_and_the_store_is_the_cause(store_code: int, code: int, ended: str) -> None:
    cause = cause_of(end(left(0, 1), left(1, 1), store_code=store_code))
    assert cause == Cause(code, None, f"The process in which the ranks meet {ended}.", 100.0)


def test_a_store_that_ends_when_all_is_done_is_no_failure() -> None:
    assert cause_of(end(left(0, 0, result=RESULT), left(1, 0), store_code=-9)).exit_code == ExitCode.DONE


def test_a_sibling_that_aborts_when_it_notices_a_failure_does_not_hide_it() -> None:
    failed = left(0, 1, 50.0, "RuntimeError: CUDA error.")
    assert cause_of(end(failed, codes={0: 1, 1: -6})) == Cause(1, 0, "RuntimeError: CUDA error.", 50.0)
    assert cause_of(end(left(0, 1), codes={1: -6, 0: 1})).error == "Rank 1 was killed by signal 6 (SIGABRT)."


def test_a_rank_that_ends_without_a_word_outweighs_a_sibling_that_noticed() -> None:
    cause = cause_of(end(left(0, 1, None, "The process of another rank is gone."), codes={1: 3, 0: 1}))
    assert cause == Cause(1, 1, "Rank 1 ended without saying why, with exit code 3.", 100.0)


def test_a_rank_that_was_killed_outweighs_the_store() -> None:
    assert cause_of(end(left(0, 1), codes={0: 1, 1: -9}, store_code=-9)).rank == 1


def test_ranks_ended_at_the_deadline_of_a_stop_request_are_preempted() -> None:
    cause = cause_of(end(killed_after=295.2, statuses=alive(0, 99.0)))
    assert cause.exit_code == ExitCode.PREEMPTED
    assert cause.error == "The pod was asked to stop; its ranks had not stopped 295 s later and were killed."


def test_ranks_ended_before_they_train_are_preempted() -> None:
    loads = {0: alive(0, 99.0)[0].model_copy(update={"phase": Phase.LOAD})}
    cause = cause_of(end(killed_after=0.01, statuses=loads))
    assert cause.exit_code == ExitCode.PREEMPTED
    assert cause.error == "The pod was asked to stop before its training began."


def test_a_rank_without_a_word_is_no_success_even_with_exit_code_zero() -> None:
    cause = cause_of(end(left(0, 0, result=RESULT), codes={1: 0, 0: 0}))
    assert cause == Cause(1, 1, "Rank 1 ended without saying why, with exit code 0.", 100.0)


def test_no_word_from_anybody_says_which_rank_failed_first() -> None:
    cause = cause_of(end(codes={0: 0, 1: 3}))
    assert (cause.exit_code, cause.rank) == (1, 1)
    assert cause.error == "Ranks 0, 1 ended without saying why, rank 1 first, with exit code 3."


def test_ranks_that_the_agent_ended_without_a_reason_are_said_so() -> None:
    assert cause_of(end(codes={})).error == "Ranks 0, 1 ended without saying why."


@pytest.mark.parametrize("other", [{"world": 3}, {"config_digest": "another"}])
def test_ranks_that_attest_different_things_are_a_mismatch_whatever_else_happened(other: dict[str, object]) -> None:
    assert cause_of(end(left(0, 0, result=RESULT), left(1, 0, **other))).exit_code == ExitCode.MISMATCH
    assert cause_of(end(left(0, 1, 5.0), left(1, 1, 6.0, **other))).exit_code == ExitCode.MISMATCH


@pytest.mark.parametrize("both", [{"world": 2}, {"config_digest": "old"}, {"world": None, "config_digest": None}])
def test_ranks_that_agree_on_something_else_than_was_asked_for_are_a_mismatch(both: dict[str, object]) -> None:
    assert cause_of(end(left(0, 0, result=RESULT, **both), left(1, 0, **both))).exit_code == ExitCode.MISMATCH


def test_a_rank_that_failed_before_it_attested_is_no_mismatch() -> None:
    early = left(0, 76, 5.0, "No such file.", world=None, config_digest=None)
    assert cause_of(end(early, left(1, 1, 6.0))).exit_code == ExitCode.INVALID


def test_the_message_attests_only_what_every_rank_wrote() -> None:
    def attested(ended: End) -> tuple[int | None, str | None]:
        message = termination.message(ended, cause_of(ended), "uid", ())
        return message.world, message.config_digest

    assert attested(end(left(0, 0, result=RESULT), left(1, 0))) == (4, CONFIG.digest)
    assert attested(end(left(0, 77, 1.0), left(1, 77, 2.0))) == (4, CONFIG.digest)
    assert attested(end(left(0, 77, 1.0))) == (None, None)
    assert attested(end(left(0, 77, 1.0), left(1, 77, 2.0, world=None, config_digest=None))) == (None, None)


def test_the_message_has_the_last_step_that_anybody_reached() -> None:
    ended = end(left(0, 1, 5.0, step=3), statuses=alive(1, 4.0, step=7))
    assert termination.message(ended, cause_of(ended), "uid", ()).step == 7


def test_the_result_is_in_the_message_of_a_success_only() -> None:
    done = end(left(0, 0, result=RESULT), left(1, 0))
    failed = end(left(0, 0, result=RESULT), left(1, 77, 1.0))
    assert termination.message(done, cause_of(done), "uid", ()).result == RESULT
    assert termination.message(failed, cause_of(failed), "uid", ()).result is None
