"""Several processes that begin and end together."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from finetune_trainer.agent import rank_processes
from finetune_trainer.agent.rank_processes import STORE, RankProcesses

SLEEP = "import time; time.sleep(600)"
FROZEN = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"


@pytest.fixture
def processes() -> RankProcesses:
    return RankProcesses()


def start(processes: RankProcesses, **programs: str) -> None:
    """Start a process for each program: `store`, or `rank_0` and so on."""
    for name, program in programs.items():
        rank = STORE if name == "store" else int(name.removeprefix("rank_"))
        processes.start(rank, [sys.executable, "-c", program], os.environ, (1, 2))


def end_store(processes: RankProcesses) -> None:
    processes.kill()
    for pid in processes._living:
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL


def test_the_end_of_all_ranks_is_waited_for_and_the_store_lives_on(processes: RankProcesses) -> None:
    start(processes, store=SLEEP, rank_0="", rank_1="")
    assert processes.wait() == {0: 0, 1: 0}
    assert list(processes._living.values()) == [STORE]
    end_store(processes)


def test_a_signal_that_comes_just_before_the_wait_is_handled_while_the_ranks_run(
    processes: RankProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal arrives after Python's check for signals and before the system call, which it does not interrupt."""
    waitpid, handled = os.waitpid, []

    def waitpid_after_a_signal(pid: int, options: int) -> tuple[int, int]:
        assert options == os.WNOHANG, "a call that blocks does not return for a signal that came before it"
        signal.raise_signal(signal.SIGUSR1)
        return waitpid(pid, options)

    former = signal.signal(signal.SIGUSR1, lambda *_: (handled.append(True), processes.signal(signal.SIGTERM)))
    try:
        start(processes, rank_0=SLEEP)
        monkeypatch.setattr(os, "waitpid", waitpid_after_a_signal)
        assert processes.wait() == {}
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert handled


def test_a_failure_ends_the_others_which_are_no_failures(processes: RankProcesses) -> None:
    start(processes, rank_0=SLEEP, rank_1="raise SystemExit(3)")
    assert processes.wait() == {1: 3}


def test_a_sibling_may_notice_and_end_by_itself(processes: RankProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_processes, "NOTICE_SECONDS", 30.0)
    notices = (
        "import os, time\nwhile os.path.exists(f'/proc/{FIRST}/cmdline') and open(f'/proc/{FIRST}/cmdline').read():"
    )
    start(processes, rank_1="import os; os.kill(os.getpid(), 9)")
    (first,) = processes._living
    start(processes, rank_0=f"FIRST = {first}\n{notices} time.sleep(0.01)\nraise SystemExit(1)")
    assert list(processes.wait().items()) == [(1, -9), (0, 1)]


def test_a_frozen_sibling_is_killed(processes: RankProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_processes, "NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(rank_processes, "SHUTDOWN_SECONDS", 0.1)
    start(processes, rank_0=FROZEN, rank_1="raise SystemExit(76)")
    began = time.monotonic()
    assert processes.wait() == {1: 76}
    assert time.monotonic() - began < 10


def test_a_rank_that_cannot_be_killed_is_waited_for_only_so_long(
    processes: RankProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a rank waits in the kernel, for example for a lost volume. Here, the signal does not reach it at all."""
    monkeypatch.setattr(rank_processes, "KILLED_SECONDS", 0.2)
    start(processes, rank_0=SLEEP, rank_1="")
    with monkeypatch.context() as unkillable:
        unkillable.setattr(os, "kill", lambda pid, number: None)
        processes.kill()
        assert processes.wait() == {1: 0}
    assert list(processes.living()) == [0]
    end_store(processes)


def test_without_the_store_the_ranks_are_ended(processes: RankProcesses) -> None:
    start(processes, store="raise SystemExit(0)", rank_0=SLEEP)
    assert processes.wait() == {STORE: 0}


def test_a_rank_that_ends_by_itself_after_a_signal_has_its_own_code(processes: RankProcesses) -> None:
    obeys = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); time.sleep(600)"
    start(processes, rank_0=obeys, rank_1="import time; time.sleep(0.3); raise SystemExit(3)")
    assert processes.wait() == {1: 3, 0: 75}
