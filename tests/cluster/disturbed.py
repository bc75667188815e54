"""A real training of two pods in a cluster, and the faults that can hit it.

The tests of recovery and the soak (benchmarks/soak) use it. No fault here may change the model: after each of them the
model must equal that of an undisturbed training. Faults that do change it, such as a row that is not a number, are
therefore left out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.kubectl import Kubectl
from support.manifests import TINY_CLASSIFIER, manifest
from trainer import tiny

RESOURCES = {"nodes": 2, "gpusPerNode": 0, "processesPerNode": 1, "cpu": 1, "memory": "3Gi", "sharedMemory": "64Mi"}
TRAINING = {"globalBatchSize": 16, "sequenceLength": 32, "learningRate": 1e-3, "seed": 17}
EVERY_MINUTES = 0.05
SECONDS = 300.0
"""Seconds until an attempt must train, or a job must be complete."""
SIGNAL_RANK = """
import os, pathlib, sys
rank, signal = sys.argv[1:]
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        if f"RANK={rank}".encode() in (process / "environ").read_bytes().split(bytes(1)):
            os.kill(int(process.name), int(signal))
    except OSError:
        pass  # it has ended, or is not ours to look at
"""
KILL_ALL = "import os; os.kill(-1, 9)"


def prepare(workspace: Path) -> None:
    """Write a small BERT with dropout and its rows to the paths that the jobs use."""
    for file in tiny.save_model(workspace / "models" / "bert", tiny.SEQUENCE, tiny.bert(dropout=0.1)).iterdir():
        file.chmod(0o644)  # safetensors creates files that only their owner can read
    tiny.labelled_texts(workspace / "data" / "rows.jsonl", 400)


@dataclass
class Disturbed:
    """A FineTuneJob in a cluster."""

    kubectl: Kubectl
    workspace: Path
    name: str

    def start(self, steps: int) -> None:
        """Create the job with a checkpoint every three seconds and practically unlimited restarts."""
        changes = {
            **TINY_CLASSIFIER,
            "metadata.namespace": self.kubectl.namespace,
            "spec.method": {"type": "Full"},
            "spec.deepspeed": {"zeroStage": 2},
            "spec.training": {**TRAINING, "maxSteps": steps},
            "spec.resources": RESOURCES,
            "spec.checkpoint": {"everyMinutes": EVERY_MINUTES, "keep": 3},
            "spec.faultTolerance": {"maxRestarts": 50, "windowMinutes": 1},
        }
        self.kubectl.apply(manifest(self.name, **changes))

    # ---- observations -----------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.kubectl.get("ftj", self.name).get("status", {})
        return status

    def until(self, what: Callable[[dict[str, Any]], Any], seconds: float = SECONDS) -> dict[str, Any]:
        """Return the first status for which `what` is true; fail at once when the job has failed."""
        deadline = time.monotonic() + seconds
        while not what(status := self.status()):
            told = json.dumps(status, indent=1)
            assert status.get("phase") != "Failed", told
            assert time.monotonic() < deadline, told
            time.sleep(0.3)
        return status

    def complete(self, seconds: float = SECONDS) -> dict[str, Any]:
        """Return the status when the job is complete."""
        return self.until(lambda s: s.get("phase") == "Complete", seconds)

    def trained(self, attempt: int, steps: int) -> int:
        """Wait until this attempt, or a later one, has done `steps` steps and a checkpoint exists.

        Return the number of the last step. The steps are read from the workspace, because the status may be seconds
        late, in which a job of small steps would finish.
        """
        seen: list[int] = []

        def has_trained(status: dict[str, Any]) -> bool:
            assert status.get("phase") != "Complete", "the job was complete before its fault; give it more steps"
            if status.get("run", {}).get("attempt", 0) < attempt:
                return False
            # The attempt begins at the lowest number seen, because it drops the records after its checkpoint.
            seen.append(self.steps())
            return seen[-1] >= min(seen) + steps and any(self.run.glob("checkpoints/LATEST"))

        self.until(has_trained)
        return self.steps()

    def steps(self) -> int:
        """Return the newest recorded step."""
        try:
            lines = (self.run / "metrics.jsonl").read_text().splitlines()
            return max((int(json.loads(line)["step"]) for line in lines[-3:-1]), default=0)
        except (OSError, StopIteration, ValueError):
            return 0

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all steps."""
        records = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        return [record for record in records if "split" not in record]

    @property
    def run(self) -> Path:
        """The folder of the first run. Raises StopIteration before it exists."""
        return next((self.workspace / self.kubectl.namespace / self.name / "runs").glob("1-*"))

    def pods(self, attempt: int) -> list[str]:
        """Return the names of the attempt's pods, sorted by index."""
        labels = f"finetune.dev/job={self.name},finetune.dev/attempt={attempt}"
        return sorted(pod["metadata"]["name"] for pod in self.kubectl.get("pods", "-l", labels))

    # ---- faults -----------------------------------------------------------------------------------------------------

    def kill_rank(self, attempt: int) -> None:
        """Send SIGKILL to one rank."""
        self._in(self.pods(attempt)[1], SIGNAL_RANK, "1", "9")

    def freeze_rank(self, attempt: int) -> None:
        """Send SIGSTOP to one rank."""
        self._in(self.pods(attempt)[1], SIGNAL_RANK, "1", "19")

    def kill_pod(self, attempt: int) -> None:
        """Send SIGKILL to all processes of one pod."""
        self._in(self.pods(attempt)[1], KILL_ALL)

    def kill_first_pod(self, attempt: int) -> None:
        """Send SIGKILL to all processes of rank 0's pod."""
        self._in(self.pods(attempt)[0], KILL_ALL)

    def terminate_one(self, attempt: int) -> None:
        """Delete one pod, which sends it SIGTERM."""
        self.kubectl.run("delete", "pod", self.pods(attempt)[1], "--wait=false")

    def terminate_all(self, attempt: int) -> None:
        """Delete all pods, which sends them SIGTERM."""
        self.kubectl.run("delete", "pod", *self.pods(attempt), "--wait=false")

    def evict(self, attempt: int) -> None:
        """Evict rank 0's pod through the eviction API."""
        pod = self.pods(attempt)[0]
        self.kubectl.evict(pod)

    def suspend(self, attempt: int) -> None:
        """Suspend the job, and resume it when no pod is left."""
        self._edit(suspend=True)
        self.until(lambda s: s.get("phase") == "Suspended")
        self._edit(suspend=False)

    def truncate_newest(self, attempt: int) -> None:
        """Kill all pods, and cut the largest file of the newest checkpoint in half."""
        self._wait_for_two_checkpoints()
        for pod in self.pods(attempt):
            self._in(pod, KILL_ALL)
        newest = (self.run / "checkpoints" / "LATEST").read_text().strip()
        largest = max((self.run / "checkpoints" / newest).iterdir(), key=lambda path: path.stat().st_size)
        os.truncate(largest, largest.stat().st_size // 2)

    def delete_checkpoint(self, attempt: int) -> None:
        """Kill a rank, and delete a file of the newest checkpoint."""
        self._wait_for_two_checkpoints()
        self.kill_rank(attempt)
        newest = (self.run / "checkpoints" / "LATEST").read_text().strip()
        (self.run / "checkpoints" / newest / "manifest.json").unlink()

    def _wait_for_two_checkpoints(self) -> None:
        """Wait until this attempt has two checkpoints, so that one remains if the other is damaged."""

        def are_there(status: dict[str, Any]) -> bool:
            manifests = self.run.glob(f"checkpoints/step-*-a{status['run']['attempt']}/manifest.json")
            return len(list(manifests)) > 1

        self.until(are_there)

    def _edit(self, **spec: Any) -> None:
        self.kubectl.run("patch", "ftj", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def _in(self, pod: str, program: str, *arguments: str) -> None:
        """Run a Python program in a pod; its exit code is ignored, because it may kill itself."""
        self.kubectl.run("exec", "-i", pod, "--", "python3", "-", *arguments, stdin=program, check=False)
