"""The cause, from what the ranks left and what torchrun saw."""

from __future__ import annotations

import pytest
from unit.agent.pod import run_config

from finetune_trainer import termination
from finetune_trainer.contract import (
    ExitCode,
    Phase,
    RankExit,
    RankStatus,
    Result,
)
from finetune_trainer.termination import Cause, End, cause_of

CONFIG = run_config(nodes=2, processes_per_node=2)
RESULT = Result(path="p", digest="d", base_metrics={}, metrics={}, step=1, trainable_parameters=1, parameters=1)


def left(rank: int, code: int, time: float | None = None, error: str | None = None, **fields: object) -> RankExit:
    attested = {"world": 4, "config_digest": CONFIG.digest}
    return RankExit(rank=rank, exit_code=code, error=error, error_time=time, **(attested | fields))  # type: ignore[arg-type]


def end(*exits: RankExit, index: int = 0, **observed: object) -> End:
    observed = {"launcher_code": 1 if any(e.exit_code for e in exits) else 0, "time": 100.0} | observed
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


def test_torchruns_own_code_never_matters_when_all_ranks_have_spoken() -> None:
    assert cause_of(end(left(0, 0, result=RESULT), left(1, 0), launcher_code=1)).exit_code == ExitCode.DONE


@pytest.mark.parametrize(
    ("first", "second", "code", "rank"), [(1.0, 2.0, 77, 0), (2.0, 1.0, 76, 1), (None, 9.0, 76, 1)]
)
def test_the_earliest_error_is_the_cause(first: float | None, second: float, code: int, rank: int) -> None:
    cause = cause_of(end(left(0, 77, first, "A."), left(1, 76, second, "B.")))
    assert (cause.exit_code, cause.rank) == (code, rank)


def test_a_rank_that_failed_outweighs_one_that_vanished_if_its_failure_has_a_class() -> None:
    assert cause_of(end(left(0, 77, 5.0, "Diverged."), failed_first=(1, -15), oom_killed=True)).exit_code == 77


def test_a_killed_rank_outweighs_a_sibling_that_noticed() -> None:
    noticed = left(0, 1, 50.0, "Connection closed by peer.")
    cause = cause_of(end(noticed, failed_first=(1, -9), statuses=alive(1, 48.0)))
    assert cause == Cause(137, 1, "Rank 1 was killed by signal 9 (SIGKILL).", 48.0)


def test_a_rank_killed_by_another_signal_is_128_and_the_signal() -> None:
    cause = cause_of(end(index=1, failed_first=(3, -7)))
    assert cause == Cause(135, 3, "Rank 3 was killed by signal 7 (SIGBUS).", 100.0)


def test_an_oom_kill_explains_a_rank_without_a_word() -> None:
    assert cause_of(end(left(0, 1, 50.0), failed_first=(1, -9), oom_killed=True)).exit_code == ExitCode.OUT_OF_MEMORY
    assert cause_of(end(launcher_code=-9, oom_killed=True)).exit_code == ExitCode.OUT_OF_MEMORY


def test_torchrun_killed_by_signal_9_is_137() -> None:
    assert cause_of(end(launcher_code=-9)) == Cause(137, None, "torchrun was killed by signal 9 (SIGKILL).", 100.0)


def test_ranks_ended_at_the_deadline_of_a_stop_request_are_preempted() -> None:
    cause = cause_of(end(failed_first=(0, -9), killed_after=295.2, statuses=alive(0, 99.0)))
    assert cause.exit_code == ExitCode.PREEMPTED
    assert cause.error == "The pod was asked to stop; its ranks had not stopped 295 s later and were killed."


def test_ranks_ended_before_they_train_are_preempted() -> None:
    loads = {0: alive(0, 99.0)[0].model_copy(update={"phase": Phase.LOAD})}
    cause = cause_of(end(failed_first=(0, -15), killed_after=0.01, statuses=loads))
    assert cause.exit_code == ExitCode.PREEMPTED
    assert cause.error == "The pod was asked to stop before its training began."


def test_a_rank_without_a_word_is_no_success_even_if_torchrun_says_so() -> None:
    cause = cause_of(end(left(0, 0, result=RESULT)))
    assert cause == Cause(1, 1, "Rank 1 ended without saying why; torchrun ended with exit code 0.", 100.0)


def test_no_word_from_anybody_says_what_torchrun_saw() -> None:
    cause = cause_of(end(launcher_code=1, failed_first=(1, 3)))
    assert cause.exit_code == 1
    assert cause.error == (
        "Ranks 0, 1 ended without saying why; torchrun ended with exit code 1 after rank 1 had ended with exit code 3."
    )


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


def test_the_first_failure_is_found_in_torchruns_log() -> None:
    lines = [
        "W1123 17:31:35.200000 10968 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 11005",
        "E1123 17:31:35.202000 10968 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: -9) "
        "local_rank: 1 (pid: 11006) of binary: /bin/sh",
    ]
    assert termination.failed_first(lines, first_rank=4) == (5, -9)
    assert termination.failed_first(lines[:1], first_rank=4) is None
