"""Tests that `finetune run` finishes without a network, and that no library tries to reach one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.manifests import TINY_CLASSIFIER, manifest
from trainer import tiny

LISTENING_IN = """
import os, sys

HERE = ("127.", "::1", "localhost", "0.0.0.0", os.uname().nodename)

def note(event, arguments):
    if event not in ("socket.connect", "socket.getaddrinfo"):
        return
    whom = arguments[0] if event == "socket.getaddrinfo" else arguments[1][0]
    if isinstance(whom, str) and whom and not whom.startswith((*HERE, "/")):
        with open(os.environ["OUTSIDE"], "a") as file:
            print(sys.argv[:2], event, whom, file=file)

sys.addaudithook(note)
"""
"""Code that every Python process runs at its start: it records each lookup of, and connection to, another machine."""
JOB = manifest(
    **{
        "metadata": {"name": "tiny"},
        **TINY_CLASSIFIER,
        "spec.training": {"maxSteps": 2, "globalBatchSize": 8, "sequenceLength": 32},
    }
)


def namespaces_fault() -> str | None:
    """Return why no network namespace can be created on this machine, or None."""
    if shutil.which("unshare") is None:
        return "there is no unshare; install util-linux"
    done = subprocess.run(["unshare", "-rn", sys.executable, "-c", LOOPBACK_UP], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
interface = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
name = struct.pack("16sh14x", b"lo", 0)
flags = struct.unpack("16sh14x", fcntl.ioctl(interface, 0x8913, name))[1]
fcntl.ioctl(interface, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))
assert open("/proc/net/route").read().count("\\n") == 1, "there are routes"
if sys.argv[1:]:
    os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.timeout(300)
def test_a_run_in_a_network_namespace_without_routes_finishes_and_asks_nobody(tmp_path: Path) -> None:
    if fault := namespaces_fault():
        pytest.skip(f"no network namespace can be made here ({fault}); run it where unshare -rn is permitted")
    workspace, outside = tmp_path / "w", tmp_path / "outside"
    tiny.save_model(workspace / "models" / "bert", tiny.SEQUENCE, tiny.bert())
    tiny.labelled_texts(workspace / "data" / "rows.jsonl", 24)
    (tmp_path / "job.yaml").write_text(json.dumps(JOB))
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(LISTENING_IN)
    hub = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in hub} | {
        "PYTHONPATH": str(tmp_path / "start"),
        "OUTSIDE": str(outside),
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(tmp_path / "huggingface"),
    }
    finetune = [sys.executable, "-m", "finetune_operator.cli.main", "run", "job.yaml", "--workspace", "w"]
    command = ["unshare", "-rn", sys.executable, "-c", LOOPBACK_UP, *finetune]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Model: " in done.stdout
    assert not outside.exists(), outside.read_text()


def test_the_listener_hears_who_asks_for_others(tmp_path: Path) -> None:
    """Check that the listener notices other machines, because the test above relies on its silence."""
    (tmp_path / "sitecustomize.py").write_text(LISTENING_IN)
    program = """
import contextlib, socket
with contextlib.suppress(OSError):
    socket.getaddrinfo("telemetry.invalid", 443)
with contextlib.suppress(OSError), socket.socket() as client:
    client.setblocking(False)
    client.connect(("192.0.2.1", 443))
with contextlib.suppress(OSError):
    socket.create_connection(("127.0.0.1", 9), timeout=0.1)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OUTSIDE": str(tmp_path / "outside")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    heard = (tmp_path / "outside").read_text()
    assert "telemetry.invalid" in heard
    assert "192.0.2.1" in heard
    assert "127.0.0.1" not in heard
