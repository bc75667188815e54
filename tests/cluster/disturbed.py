"""A real training of two pods in a cluster, and everything that is done to it while it trains.

Used by the tests of recovery and by the soak (benchmarks/soak). Faults that change the model, such as a row that is not
a number, are not among them: after each of these the model must be that of a training that nobody disturbed.
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
"""Until an attempt trains, or a job is complete."""
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
    """A small BERT with dropout, and rows for it, where jobs of `job` look for them."""
    for file in tiny.save_model(workspace / "models" / "bert", tiny.SEQUENCE, tiny.bert(dropout=0.1)).iterdir():
        file.chmod(0o644)  # safetensors writes for its own user alone
    tiny.labelled_texts(workspace / "data" / "rows.jsonl", 400)


@dataclass
class Disturbed:
    """A FineTuneJob in a cluster."""

    kubectl: Kubectl
    workspace: Path
    name: str

    def start(self, steps: int) -> None:
        """With so many steps to do, a checkpoint every three seconds, and no end of restarts."""
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

    # ---- what is seen -----------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.kubectl.get("ftj", self.name).get("status", {})
        return status

    def until(self, what: Callable[[dict[str, Any]], Any], seconds: float = SECONDS) -> dict[str, Any]:
        """The first status of which something is true; fails at once when the job has failed."""
        deadline = time.monotonic() + seconds
        while not what(status := self.status()):
            told = json.dumps(status, indent=1)
            assert status.get("phase") != "Failed", told
            assert time.monotonic() < deadline, told
            time.sleep(0.3)
        return status

    def complete(self, seconds: float = SECONDS) -> dict[str, Any]:
        """The status at the end."""
        return self.until(lambda s: s.get("phase") == "Complete", seconds)

    def trained(self, attempt: int, steps: int) -> int:
        """Wait until that attempt, or a later one, has done so many steps and there is a checkpoint; returns the number
        of the last. Not by the status, which may be seconds late: a job of small steps would be done meanwhile."""
        seen: list[int] = []

        def has_trained(status: dict[str, Any]) -> bool:
            assert status.get("phase") != "Complete", "the job was complete before its fault; give it more steps"
            if status.get("run", {}).get("attempt", 0) < attempt:
                return False
            # Where the attempt begins is the lowest: it forgets what was recorded after its checkpoint.
            seen.append(self.steps())
            return seen[-1] >= min(seen) + steps and any(self.run.glob("checkpoints/LATEST"))

        self.until(has_trained)
        return self.steps()

    def steps(self) -> int:
        """The newest that is recorded."""
        try:
            lines = (self.run / "metrics.jsonl").read_text().splitlines()
            return max((int(json.loads(line)["step"]) for line in lines[-3:-1]), default=0)
        except (OSError, StopIteration, ValueError):
            return 0

    def records(self) -> list[dict[str, Any]]:
        """Of all steps."""
        records = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        return [record for record in records if "split" not in record]

    @property
    def run(self) -> Path:
        """Folder of the first run. Raises StopIteration before there is one."""
        return next((self.workspace / self.kubectl.namespace / self.name / "runs").glob("1-*"))

    def pods(self, attempt: int) -> list[str]:
        """Names, by index."""
        labels = f"finetune.dev/job={self.name},finetune.dev/attempt={attempt}"
        return sorted(pod["metadata"]["name"] for pod in self.kubectl.get("pods", "-l", labels))

    # ---- what is done -----------------------------------------------------------------------------------------------

    def kill_rank(self, attempt: int) -> None:
        """SIGKILL to one rank."""
        self._in(self.pods(attempt)[1], SIGNAL_RANK, "1", "9")

    def freeze_rank(self, attempt: int) -> None:
        """SIGSTOP to one rank."""
        self._in(self.pods(attempt)[1], SIGNAL_RANK, "1", "19")

    def kill_pod(self, attempt: int) -> None:
        """SIGKILL to all processes of a pod."""
        self._in(self.pods(attempt)[1], KILL_ALL)

    def kill_first_pod(self, attempt: int) -> None:
        """The same to rank 0's."""
        self._in(self.pods(attempt)[0], KILL_ALL)

    def terminate_one(self, attempt: int) -> None:
        """SIGTERM to one pod."""
        self.kubectl.run("delete", "pod", self.pods(attempt)[1], "--wait=false")

    def terminate_all(self, attempt: int) -> None:
        """SIGTERM to all pods."""
        self.kubectl.run("delete", "pod", *self.pods(attempt), "--wait=false")

    def evict(self, attempt: int) -> None:
        """By the eviction API, rank 0's pod."""
        pod = self.pods(attempt)[0]
        self.kubectl.evict(pod)

    def suspend(self, attempt: int) -> None:
        """Suspended, and resumed when no pod is left."""
        self._edit(suspend=True)
        self.until(lambda s: s.get("phase") == "Suspended")
        self._edit(suspend=False)

    def truncate_newest(self, attempt: int) -> None:
        """All killed, and the largest file of the newest checkpoint cut in half."""
        self._wait_for_two_checkpoints()
        for pod in self.pods(attempt):
            self._in(pod, KILL_ALL)
        newest = (self.run / "checkpoints" / "LATEST").read_text().strip()
        largest = max((self.run / "checkpoints" / newest).iterdir(), key=lambda path: path.stat().st_size)
        os.truncate(largest, largest.stat().st_size // 2)

    def delete_checkpoint(self, attempt: int) -> None:
        """A rank killed, and a file of the newest checkpoint gone."""
        self._wait_for_two_checkpoints()
        self.kill_rank(attempt)
        newest = (self.run / "checkpoints" / "LATEST").read_text().strip()
        (self.run / "checkpoints" / newest / "manifest.json").unlink()

    def _wait_for_two_checkpoints(self) -> None:
        """Of this attempt: when one is spoilt, there must be another to go on from."""

        def are_there(status: dict[str, Any]) -> bool:
            manifests = self.run.glob(f"checkpoints/step-*-a{status['run']['attempt']}/manifest.json")
            return len(list(manifests)) > 1

        self.until(are_there)

    def _edit(self, **spec: Any) -> None:
        self.kubectl.run("patch", "ftj", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def _in(self, pod: str, program: str, *arguments: str) -> None:
        """The program may kill itself."""
        self.kubectl.run("exec", "-i", pod, "--", "python3", "-", *arguments, stdin=program, check=False)
