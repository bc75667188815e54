"""FineTuneJobs for this machine, and an operator that runs them as `finetune run` does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.cli.machine import operator_settings
from finetune_operator.constants import DEFAULT_CLAIM
from finetune_operator.local.cluster import LocalCluster
from finetune_operator.local.processes import ProcessDriver
from finetune_operator.protocol import FINETUNEJOBS
from finetune_operator.runtime.run_locally import run_locally
from gpu_day.models import Family

NAMESPACE = "default"


def manifest(name: str, family: Family, data: Path, device: str, **spec: Any) -> dict[str, Any]:
    """Return a job that trains the folder's `base` on its `rows`, on one GPU or one CPU.

    `spec` adds or replaces fields.
    """
    suffix = "" if family.has_pictures else ".jsonl"
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "task": family.task,
            "model": {"uri": f"file://{data / 'base'}"},
            "dataset": {
                "uri": f"file://{data}/rows{suffix}",
                "columns": family.columns,
                "evaluation": {"uri": f"file://{data}/evaluation{suffix}", "maxLeakFraction": 1.0},
            },
            "resources": {"nodes": 1, "gpusPerNode": int(device == "cuda"), "cpu": "1", "memory": "16Gi"},
            **spec,
        },
    }


class LocalOperator:
    """The operator with an in-memory cluster whose pods are processes of this machine."""

    def __init__(self, cluster: LocalCluster, workspace: Path, logs: Path) -> None:
        self.cluster = cluster
        self.workspace = workspace
        self._logs = logs

    async def create(self, job: dict[str, Any]) -> None:
        """Create a job."""
        await self.cluster.create(FINETUNEJOBS, job)

    async def status(self, name: str) -> FineTuneJobStatus:
        """Return the job's status."""
        job = await self.cluster.get(FINETUNEJOBS, NAMESPACE, name)
        return FineTuneJobStatus.model_validate(job.get("status", {}))

    def run_folder(self, name: str) -> Path | None:
        """Return the folder of the job's run, or None if the trainer has not made it yet."""
        folders = sorted((self.workspace / NAMESPACE / name / "runs").glob("*"))
        return folders[0] if folders else None

    def log_tail(self, name: str) -> str:
        """Return the end of the newest log of the job's pods."""
        logs = sorted(self._logs.glob(f"**/{name}-*.log"), key=lambda path: path.stat().st_mtime)
        return logs[-1].read_text(errors="replace")[-3000:] if logs else ""


@asynccontextmanager
async def local_operator(workspace: Path, logs: Path) -> AsyncIterator[LocalOperator]:
    """Run an operator for the duration of the block. All pods end with it."""
    driver = ProcessDriver({DEFAULT_CLAIM: workspace}, logs)
    async with run_locally(driver, operator_settings(), NAMESPACE) as (cluster, _):
        yield LocalOperator(cluster, workspace, logs)
