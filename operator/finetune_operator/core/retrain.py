"""When a run starts: a new generation asks for one, and the recipe tells whether it is needed."""

from __future__ import annotations

from datetime import datetime

from finetune_operator.api.v1alpha1 import FineTuneJob, RunStatus
from finetune_operator.core.resolve import recipe_digest, run_config, storage_claim, world_of
from finetune_operator.core.settings import Settings
from finetune_operator.core.times import to_text


def run_is_needed(job: FineTuneJob) -> bool:
    """For a job without a run that goes on.

    A generation that was seen when the newest run started asks for nothing. Of a later one, the same recipe is needed
    again only if it has failed.
    """
    run = job.status.run
    if run is None:
        return True
    if run.generation == job.metadata.generation:
        return False
    return job.status.result is None or run.recipe != recipe_digest(job.spec)


def next_run(job: FineTuneJob, number: int, settings: Settings, nonce: str, now: datetime) -> RunStatus:
    """The run that starts now. What the operator's configuration gives is frozen here."""
    world = world_of(job.spec)
    run = RunStatus(
        number=number,
        attempt=1,
        nonce=nonce,
        image=job.spec.image or settings.image,
        claim_name=storage_claim(job.spec, settings.claim),
        generation=job.metadata.generation,
        recipe=recipe_digest(job.spec),
        start_time=to_text(now),
        nodes=world.nodes,
        world=world.size,
        zero_stage=job.spec.deepspeed.zero_stage,
    )
    return run.model_copy(update={"config_digest": run_config(job, run, settings).digest})
