"""Whether the children of an attempt that goes on are there, besides its Job: somebody may delete them.

The informer tells when one is deleted. It can miss that, as can an operator that is not there, so the children are
looked up when an operator first sees an attempt that it did not start, and then every ten minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJob, RunStatus
from finetune_operator.core.observed.children import MissingChild
from finetune_operator.core.observed.foreign import controller_uid, fields
from finetune_operator.core.run.resolve import run_config
from finetune_operator.core.settings import Settings
from finetune_operator.core.times import within
from finetune_operator.manifests.network_policy import network_policy
from finetune_operator.protocol import (
    CONFIGMAPS,
    JOBS,
    NETWORKPOLICIES,
    SERVICES,
    ApiError,
    Cluster,
    NotFoundError,
    Object,
    Resource,
)
from finetune_operator.runtime.job_memory import Children, JobMemory

LASTS = 600.0
"""Seconds after which the children are looked up again."""
_RESOURCES = {resource.kind: resource for resource in (CONFIGMAPS, SERVICES, NETWORKPOLICIES)}


async def missing_children(
    cluster: Cluster,
    memory: JobMemory,
    now: datetime,
    child: Object,
    job: FineTuneJob,
    run: RunStatus,
    settings: Settings,
) -> tuple[MissingChild, ...]:
    """The children that the pods of an attempt's Job need and that are not there; a name that an object of somebody
    else bears counts as missing. Empty without a look as long as what `memory` has of the last one holds.

    `child` is the Job, whose pods bear the name of their NetworkPolicy; `job` has the spec that the run goes on with.
    Raises ApiError."""
    seen = memory.children
    if seen and within(now - seen.time, LASTS) and (CONFIGMAPS.kind, child["metadata"]["name"]) in seen.names:
        return ()
    needed = _needed(child, job, run, settings)
    # It is remembered before the look, so that an event that comes meanwhile is not forgotten.
    memory.children = seen = Children(now, frozenset((one.kind, one.name) for one in needed))
    try:
        missing = [one for one in needed if not await _is_there(cluster, one, job)]
    except ApiError:
        if memory.children is seen:
            memory.children = None
        raise
    return tuple(missing)


def all_there(now: datetime, children: Iterable[tuple[Resource, Object]]) -> Children:
    """What is remembered when an attempt's children have just been made."""
    names = ((resource.kind, child["metadata"]["name"]) for resource, child in children if resource != JOBS)
    return Children(now, frozenset(names))


async def _is_there(cluster: Cluster, child: MissingChild, job: FineTuneJob) -> bool:
    with suppress(NotFoundError):
        found = await cluster.get(_RESOURCES[child.kind], job.metadata.namespace, child.name)
        return controller_uid(found.get("metadata")) == job.metadata.uid
    return False


def _needed(child: Object, job: FineTuneJob, run: RunStatus, settings: Settings) -> list[MissingChild]:
    """Each child as it would be missing. Without the operator's NetworkPolicies none is looked up, or may be."""
    name = child["metadata"]["name"]
    same = run_config(job, run, settings).digest == run.config_digest
    needed = [MissingChild(CONFIGMAPS.kind, name, same), MissingChild(SERVICES.kind, name, True)]
    template = fields(fields(child.get("spec")).get("template"))
    of_pods = fields(fields(template.get("metadata")).get("labels")).get(constants.LABEL_POLICY)
    if of_pods and (of_now := network_policy(job, settings)):
        needed.append(MissingChild(NETWORKPOLICIES.kind, of_pods, of_now["metadata"]["name"] == of_pods))
    return needed
