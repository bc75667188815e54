"""Follows a FineTuneJob to its end, in a real or an in-memory cluster."""

from __future__ import annotations

from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.cli.display import Display
from finetune_operator.cli.exit_codes import DONE, FAILED, INVALID
from finetune_operator.constants import INVALID_SPEC, ConditionType, Phase
from finetune_operator.protocol import FINETUNEJOBS, Cluster
from finetune_trainer.contract import FailureClass


async def follow(cluster: Cluster, namespace: str, name: str, display: Display) -> tuple[int, FineTuneJobStatus]:
    """Show each change until the newest generation has ended, through restarts and suspension.

    Returns the exit code and the last status.
    """
    async for event in cluster.watch(FINETUNEJOBS, namespace):
        metadata = event.object["metadata"]
        if metadata["name"] != name:
            continue
        status = FineTuneJobStatus.model_validate(event.object.get("status", {}))
        if event.type == "DELETED":
            return FAILED, status
        display.update(status)
        if status.observed_generation == metadata.get("generation", 1):
            code = exit_code(status)
            if code is not None:
                return code, status
    raise AssertionError("a watch does not end")


def exit_code(status: FineTuneJobStatus) -> int | None:
    """Return the exit code, or None while the job has not ended.

    The code is 0 if the job is complete, 2 if it failed for a cause that the user can correct in the manifest, and 1
    if it failed otherwise.
    """
    stalled = next((c for c in status.conditions if c.type == ConditionType.STALLED and c.status == "True"), None)
    if stalled and stalled.reason == INVALID_SPEC.name:
        return INVALID
    if status.phase == Phase.COMPLETE:
        return DONE
    if status.phase == Phase.FAILED:
        return INVALID if status.ledger and status.ledger[-1].class_ == FailureClass.INVALID else FAILED
    return None
