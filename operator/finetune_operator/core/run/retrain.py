"""Decides when a run starts: a new generation asks for one, and the recipe determines whether it is needed."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from typing import Any

from finetune_operator.api.v1alpha1 import FineTuneJob, FineTuneJobSpec, FineTuneJobStatus, RunStatus
from finetune_operator.core.attempt import checkpoint
from finetune_operator.core.attempt.restart import Restart
from finetune_operator.core.run.resolve import recipe_digest, storage_claim, with_config_digest, world_of
from finetune_operator.core.settings import Settings
from finetune_operator.core.times import to_text
from finetune_trainer.contract import CONTRACT_VERSION

_AT_ONCE = ("suspend", "ttl_seconds_after_finished", "fault_tolerance", "checkpoint")
"""The fields of the spec that take effect at once, also in an unfinished run; a run keeps the others to its end."""


def wanted_digest(spec: FineTuneJobSpec) -> str:
    """Return the digest of all fields that ask for another run if the previous one has failed.

    These are all fields of the spec except those that take effect at once.
    """
    # Defaults are left out, because a field that a later release adds must not look like an edit.
    fields = spec.model_dump(mode="json", exclude=set(_AT_ONCE), exclude_defaults=True)
    retrain = fields.pop("retrain", {})
    fields["request"] = retrain.get("request", "")
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def run_is_needed(job: FineTuneJob) -> bool:
    """Return whether a job without an unfinished run needs a run.

    A generation that was seen when the newest run started needs none. A later generation needs one if its recipe
    differs. After a failed run, any other edit suffices, for example a changed retrain.request, except edits of the
    fields that take effect at once.
    """
    run = job.status.run
    if run is None:
        return True
    if run.generation == job.metadata.generation:
        return False
    if run.recipe != recipe_digest(job.spec, run.contract):
        return True
    return job.status.result is None and run.wanted != wanted_digest(job.spec)


def is_edited(job: FineTuneJob, run: RunStatus) -> bool:
    """Return whether the spec was edited since the run began, beyond the fields that take effect at once."""
    return run.generation != job.metadata.generation and run.wanted != wanted_digest(job.spec)


def with_spec_of_run(job: FineTuneJob, spec: FineTuneJobSpec) -> FineTuneJob:
    """Return the job with the spec that its run began with, except for the fields that take effect at once."""
    now = {name: getattr(job.spec, name) for name in _AT_ONCE}
    retrain = spec.retrain.model_copy(update={"while_running": job.spec.retrain.while_running})
    return job.model_copy(update={"spec": spec.model_copy(update={**now, "retrain": retrain})})


def next_run(job: FineTuneJob, number: int, settings: Settings, nonce: str, now: datetime) -> RunStatus:
    """Return the run that starts now, with the current values of the operator's configuration."""
    run = RunStatus(
        number=number,
        attempt=1,
        contract=CONTRACT_VERSION,
        nonce=nonce,
        recipe=recipe_digest(job.spec, CONTRACT_VERSION),
        start_time=to_text(now),
        attempt_time=to_text(now),
        **launch_of(job, settings),
    )
    return with_config_digest(job, run, settings)


def launch_of(job: FineTuneJob, settings: Settings) -> dict[str, Any]:
    """Return the fields of a run that determine with which spec, and how, its pods are started."""
    world = world_of(job.spec)
    return {
        "image": job.spec.image or settings.image,
        "claim_name": storage_claim(job.spec, settings.claim),
        "generation": job.metadata.generation,
        "wanted": wanted_digest(job.spec),
        "nodes": world.nodes,
        "world": world.size,
        "zero_stage": job.spec.deepspeed.zero_stage,
    }


def next_attempt(
    status: FineTuneJobStatus,
    run: RunStatus,
    restart: Restart,
    avoid: tuple[str, ...],
    active: int,
    nonce: str,
    now: datetime,
) -> RunStatus:
    """Return the run with its next attempt.

    The nonce and the number distinguish the attempt's configuration from that of other attempts.
    """
    waits = to_text(now + timedelta(seconds=restart.delay)) if restart.delay else None
    return run.model_copy(
        update={
            "attempt": run.attempt + 1,
            "nonce": nonce,
            "job_uid": None,
            "attempt_time": to_text(now),
            "not_before": waits,
            "failure_times": list(restart.failure_times),
            "uncounted_in_row": restart.uncounted_in_row,
            "gave_way_in_row": restart.gave_way_in_row,
            "avoid_nodes": list(avoid),
            "micro_batch_size": restart.micro_batch_size,
            "activation_checkpointing": restart.activation_checkpointing,
            "checkpoint_step": status.checkpoint.step if status.checkpoint else None,
            "grace_seconds": checkpoint.grace(status.checkpoint, status.progress) or run.grace_seconds,
            "active_seconds": run.active_seconds + active,
        }
    )
