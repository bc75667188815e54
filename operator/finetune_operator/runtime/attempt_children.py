"""Checks that the children of an attempt that goes on exist, besides its Job, because somebody may delete them.

The informer reports when one is deleted. It can miss that, and an operator that is down misses it too, so the children
are looked up when an operator first sees an attempt that it did not start, and then every ten minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJob, RunStatus
from finetune_operator.core.observed.children import MissingChild
from finetune_operator.core.observed.foreign import controller_uid, fields, text
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
from finetune_operator.runtime.policies import policies_of

LASTS = 600.0
"""Seconds after which the children are looked up again."""


class Found(NamedTuple):
    """What a lookup of an attempt's children has found."""

    missing: tuple[MissingChild, ...] = ()
    other_policies: frozenset[str] = frozenset()
    """The names of the job's NetworkPolicies that are not the attempt's."""


async def look_for_children(
    cluster: Cluster,
    memory: JobMemory,
    now: datetime,
    child: Object,
    job: FineTuneJob,
    run: RunStatus,
    settings: Settings,
) -> Found:
    """Find the children that the pods of an attempt's Job need and that do not exist.

    A child counts as missing if an object of another owner has its name. Nothing is looked up as long as the last
    result in `memory` is valid. `child` is the Job, whose pods are labelled with the name of their NetworkPolicy; `job`
    has the spec of the run. Raises ApiError.
    """
    seen, name = memory.children, child["metadata"]["name"]
    if seen and seen.time and within(now - seen.time, LASTS) and (CONFIGMAPS.kind, name) in seen.names:
        return Found()
    same = run_config(job, run, settings).digest == run.config_digest
    needed = [MissingChild(CONFIGMAPS.kind, name, same), MissingChild(SERVICES.kind, name, True)]
    policy, of_now = _policy_of(child), network_policy(job, settings)
    if policy and of_now:  # an operator that creates no policies may lack the permission to read them
        needed.append(MissingChild(NETWORKPOLICIES.kind, policy, of_now["metadata"]["name"] == policy))
    # This is remembered before the requests, so that an event that arrives in between can delete it.
    memory.children = seen = Children(now, frozenset((one.kind, one.name) for one in needed))
    try:
        there = {
            CONFIGMAPS.kind: await _is_there(cluster, CONFIGMAPS, name, job),
            SERVICES.kind: await _is_there(cluster, SERVICES, name, job),
        }
        policies = await policies_of(cluster, job) if of_now else frozenset()
    except ApiError:
        if memory.children is seen:
            memory.children = None
        raise
    there[NETWORKPOLICIES.kind] = policy in policies
    missing = tuple(one for one in needed if not there[one.kind])
    if any(one.can_be_made for one in missing) and memory.children is seen:
        # Look them up again until the child was created again and found. Their names stay, so that the event of the
        # next deletion is not taken for one that does not matter.
        memory.children = replace(seen, time=None)
    return Found(missing, policies - {policy})


def all_there(now: datetime, children: Iterable[tuple[Resource, Object]]) -> Children:
    """Return what is remembered when an attempt's children have just been created."""
    names = ((resource.kind, child["metadata"]["name"]) for resource, child in children if resource != JOBS)
    return Children(now, frozenset(names))


async def _is_there(cluster: Cluster, resource: Resource, name: str, job: FineTuneJob) -> bool:
    with suppress(NotFoundError):
        found = await cluster.get(resource, job.metadata.namespace, name)
        return controller_uid(found.get("metadata")) == job.metadata.uid
    return False


def _policy_of(child: Object) -> str | None:
    """Return the name of the NetworkPolicy that the pods of a Job are labelled with."""
    template = fields(fields(child.get("spec")).get("template"))
    return text(fields(fields(template.get("metadata")).get("labels")).get(constants.LABEL_POLICY))
