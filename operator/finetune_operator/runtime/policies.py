"""The NetworkPolicies of a job: one for each configuration of the operator under which pods of it were started.

A policy is never changed, so after the operator's configuration has changed, the next attempt gets another one. The
older ones are deleted once they protect no pod any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJob
from finetune_operator.core.observed.foreign import controller_uid
from finetune_operator.core.observed.views import PodView
from finetune_operator.protocol import NETWORKPOLICIES, PODS, Cluster, NotFoundError


async def policies_of(cluster: Cluster, job: FineTuneJob) -> frozenset[str]:
    """Return the names of the NetworkPolicies that the operator has created for a job."""
    labels = {constants.LABEL_MANAGED_BY: constants.MANAGER, constants.LABEL_JOB: job.metadata.name}
    listed = await cluster.list(NETWORKPOLICIES, job.metadata.namespace, labels)
    ours = (found["metadata"] for found in listed if controller_uid(found["metadata"]) == job.metadata.uid)
    return frozenset(str(metadata["name"]) for metadata in ours)


async def delete_policies(cluster: Cluster, job: FineTuneJob, names: Iterable[str]) -> None:
    """Delete NetworkPolicies of the job in the order of their names; those that no longer exist are skipped."""
    for name in sorted(names):
        with suppress(NotFoundError):
            await cluster.delete(NETWORKPOLICIES, job.metadata.namespace, name)


async def delete_unused_policies(cluster: Cluster, job: FineTuneJob, names: Iterable[str], needed: str) -> None:
    """Delete those of the named NetworkPolicies that protect no pod any more.

    The one that is `needed` by pods that are about to be created is kept.
    """
    if not (old := {*names} - {needed}):
        return
    pods = await cluster.list(PODS, job.metadata.namespace, {constants.LABEL_JOB: job.metadata.name})
    used = {pod["metadata"]["labels"].get(constants.LABEL_POLICY) for pod in pods if not PodView.of(pod).ended_or_gone}
    await delete_policies(cluster, job, old - used)
