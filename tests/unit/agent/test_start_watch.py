"""The agent ends ranks that hang while they start."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from unit.agent.conftest import MakePod
from unit.agent.pod import Pod

from finetune_trainer.agent import process_state
from finetune_trainer.agent.polling import POLLS
from finetune_trainer.agent.rank_output import RankOutput
from finetune_trainer.agent.rank_processes import RankProcesses
from finetune_trainer.agent.redaction import redactor
from finetune_trainer.agent.start_watch import StartWatch
from finetune_trainer.contract import ExitCode, rank_imported_file, rank_started_file
from finetune_trainer.pod.scratch import Scratch


class Start:
    """Two ranks whose files and activity the test sets."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.done = {100: 0.0, 101: 0.0}
        """The CPU seconds of each process, by process id."""
        processes = RankProcesses()
        self.living = {0: 100, 1: 101}
        monkeypatch.setattr(processes, "living", lambda: self.living)
        monkeypatch.setattr(process_state, "activity", lambda pid: (self.done[pid], 0, 1))
        output = RankOutput(range(2), redactor({}))
        output.close(timeout=30)
        self.watch = StartWatch(range(2), Scratch(folder), processes, output, 120.0)

    def starts(self, rank: int) -> None:
        (self.folder / rank_started_file(rank)).touch()

    def has_imported(self, rank: int) -> None:
        (self.folder / rank_imported_file(rank)).touch()

    def hanging_after(self, looks: int) -> dict[int, int]:
        for _ in range(looks):
            if hanging := self.watch.look():
                return hanging
        return {}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return Start(tmp_path, monkeypatch)


def test_a_rank_that_never_runs_the_trainer_hangs_however_much_its_process_computes(start: Start) -> None:
    start.has_imported(1)
    for look in range(POLLS - 1):
        start.done[100] = look
        assert start.watch.look() == {}
    assert start.watch.look() == {0: 100}


def test_a_rank_that_imports_for_long_is_left_alone_as_long_as_its_process_does_something(start: Start) -> None:
    start.starts(0)
    start.has_imported(1)
    for look in range(10 * POLLS):
        start.done[100] = look // (POLLS - 1)
        assert start.watch.look() == {}
    assert start.hanging_after(POLLS) == {0: 100}


def test_a_rank_that_has_imported_its_libraries_may_wait_for_ever(start: Start) -> None:
    for rank in (0, 1):
        start.starts(rank)
        start.has_imported(rank)
    assert start.hanging_after(10 * POLLS) == {}


def test_a_rank_that_has_ended_does_not_hang(start: Start) -> None:
    start.has_imported(1)
    del start.living[0]
    assert start.hanging_after(10 * POLLS) == {}


def test_all_ranks_that_hang_are_named(start: Start) -> None:
    assert start.hanging_after(POLLS) == {0: 100, 1: 101}


def at_the_rank_s_start(pod: Pod, statement: str) -> None:
    """Make the rank's process run this statement before the trainer's code."""
    condition = "if sys.orig_argv[-1] == 'rank_of_test':"
    (pod.folder / "sitecustomize.py").write_text(f"import os, signal, sys, time\n{condition}\n    {statement}\n")


def test_a_rank_that_hangs_before_it_runs_the_trainer_ends_the_pod_as_hung(make_pod: MakePod) -> None:
    pod = make_pod("raise AssertionError('never runs')", start_seconds=2.0)
    at_the_rank_s_start(pod, "time.sleep(600)")
    code, message = pod.run()
    assert code == message.exit_code == ExitCode.HUNG
    place = re.escape(f"{pod.folder}/sitecustomize.py, line 3 in <module>")
    began = "Rank 0 did not begin to run the trainer's code within 2 s of its start"
    assert re.fullmatch(
        rf"{began}: process \d+ is sleeping( in the kernel function \w+)?; Python was at {place}\.", message.error or ""
    )
    assert message.failing_rank == 0
    assert message.log[-1].endswith(f"its command: {sys.executable} -u -X faulthandler -m rank_of_test")
    assert f'  File "{pod.folder}/sitecustomize.py", line 3 in <module>' in pod.output("stderr").splitlines()


def test_a_rank_that_hangs_in_an_import_ends_the_pod_and_its_waiting_sibling(make_pod: MakePod) -> None:
    source = """
    (SCRATCH / contract.rank_started_file(RANK)).touch()
    if RANK == 0:
        (SCRATCH / contract.rank_imported_file(RANK)).touch()
    time.sleep(600)
    """
    code, message = make_pod(source, processes_per_node=2, start_seconds=2.0).run()
    assert code == ExitCode.HUNG
    assert (message.error or "").startswith("Rank 1 neither computed nor read anything for 2 s while it imported")
    assert "rank_of_test.py, line" in (message.error or "")
    assert message.failing_rank == 1


def test_a_rank_that_is_frozen_in_its_start_is_ended_though_it_gives_no_stack(make_pod: MakePod) -> None:
    pod = make_pod("raise AssertionError('never runs')", start_seconds=2.0)
    at_the_rank_s_start(pod, "os.kill(os.getpid(), signal.SIGSTOP)")
    code, message = pod.run()
    assert code == ExitCode.HUNG
    assert "is stopped by a signal" in (message.error or "")
    assert "Python was at" not in (message.error or "")


def test_a_rank_that_reports_and_then_waits_long_is_left_alone(make_pod: MakePod) -> None:
    source = """
    (SCRATCH / contract.rank_started_file(RANK)).touch()
    (SCRATCH / contract.rank_imported_file(RANK)).touch()
    time.sleep(4)
    done()
    """
    code, message = make_pod(source, start_seconds=2.0).run()
    assert (code, message.error) == (0, None)
