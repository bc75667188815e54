"""The parent of a pod's first process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from finetune_operator.local import supervise

ENDED_ALREADY = f"""
import os, runpy, subprocess, sys
start = subprocess.Popen.__init__

def started_and_ended(self, *arguments, **options):
    start(self, *arguments, **options)
    os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

subprocess.Popen.__init__ = started_and_ended
sys.argv = ["supervise.py", sys.executable, "-c", "raise SystemExit(7)"]
runpy.run_path({supervise.__file__!r}, run_name="__main__")
"""
"""A program in which the command ends before its parent first checks for it."""


@pytest.mark.skipif(sys.platform != "linux", reason="waits for a child without reaping it, as Linux can")
def test_the_end_of_a_command_that_ends_at_once_is_seen() -> None:
    done = subprocess.run([sys.executable, "-c", ENDED_ALREADY], stdin=subprocess.PIPE, timeout=60)
    assert done.returncode == 7
