"""The state of a process, observed from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from unit.agent.pod import wait_until

from finetune_trainer.agent import process_state

SLEEPS = "import time; print(flush=True); time.sleep(600)"
READS_LINES = "import sys\nfor line in sys.stdin: print(sum(range(10_000_000)), flush=True)"


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Start a Python process that runs the given program."""
    command = [sys.executable, "-c", request.param]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("process", [READS_LINES], indirect=True)
def test_activity_grows_only_while_the_process_works(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    line_of(process)
    wait_until(lambda: "sleeping" in process_state.describe(process.pid))
    before = process_state.activity(process.pid)
    assert process_state.activity(process.pid) == before
    process.stdin.write("\n")
    process.stdin.flush()
    line_of(process)
    assert process_state.activity(process.pid) > before


@pytest.mark.parametrize(
    "process", [f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPS!r}])"], indirect=True
)
def test_descendants_are_described_with_their_commands(process: subprocess.Popen[str]) -> None:
    line_of(process)
    parent, child = process_state.describe_all(process.pid)
    assert parent.startswith(f"process {process.pid} is sleeping")
    assert child.endswith(f"its command: {sys.executable} -c 'import time; print(flush=True); time.sleep(600)'")
    assert process_state.activity(process.pid)[2] == 2


@pytest.mark.parametrize("process", [SLEEPS], indirect=True)
def test_a_stopped_process_is_called_so(process: subprocess.Popen[str]) -> None:
    line_of(process)
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: "stopped by a signal" in process_state.describe(process.pid))


def test_a_process_that_is_gone_has_done_nothing() -> None:
    pid = subprocess.Popen([sys.executable, "-c", ""])
    pid.wait()
    assert process_state.activity(pid.pid) == (0.0, 0, 0)
    assert process_state.describe(pid.pid) == f"process {pid.pid} is gone"
    assert process_state.describe_all(pid.pid) == []


def test_the_innermost_line_is_that_of_the_main_thread_and_not_of_python_s_import_system() -> None:
    stack = [
        "Fatal Python error: Aborted",
        "Thread 0x00007f01 (most recent call first):",
        '  File "/lib/threading.py", line 320 in wait',
        "Current thread 0x00007f02 (most recent call first):",
        '  File "<frozen importlib._bootstrap_external>", line 1186 in get_data',
        '  File "/site/torch/__init__.py", line 12 in <module>',
        '  File "/site/deepspeed/__init__.py", line 5 in <module>',
        "Extension modules: numpy (total: 1)",
    ]
    assert process_state.innermost_line(stack) == "/site/torch/__init__.py, line 12 in <module>"


def test_a_process_that_has_not_come_to_python_has_no_line() -> None:
    assert process_state.innermost_line(["Fatal Python error: Aborted", "<no Python frame>"]) is None


def test_faulthandler_writes_what_the_innermost_line_is_read_from() -> None:
    command = [sys.executable, "-X", "faulthandler", "-c", "import os, signal\nos.kill(os.getpid(), signal.SIGABRT)"]
    ended = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert ended.returncode == -signal.SIGABRT
    assert process_state.innermost_line(ended.stderr.splitlines()) == "<string>, line 2 in <module>"
