"""A connection to a cluster, or a sentence about why there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from finetune_operator.cli.errors import UsageError
from finetune_operator.kube.client import ConfigurationError, KubeCluster
from finetune_operator.protocol import ApiError, ForbiddenError, InvalidError, NotFoundError


@asynccontextmanager
async def connect(
    context: str | None = None, agent_access: Literal["direct", "proxy"] = "direct"
) -> AsyncIterator[KubeCluster]:
    """The cluster of the kubeconfig, or of the pod that this runs in. Raises UsageError, also for what the API server
    refuses while it is used."""
    try:
        cluster = await KubeCluster.connect(context=context, agent_access=agent_access)
    except ConfigurationError as error:
        raise UsageError(f"there is no cluster to talk to ({error}); set KUBECONFIG or --context") from None
    try:
        yield cluster
    except ApiError as error:
        raise UsageError(_sentence(error)) from None
    finally:
        await cluster.close()


def _sentence(error: ApiError) -> str:
    if error.status == 0:
        return f"{error.message}; check KUBECONFIG and --context"
    if isinstance(error, NotFoundError) and "finetunejobs" in error.message and '"' not in error.message:
        return "the cluster does not know FineTuneJobs; run: finetune crd | kubectl apply --server-side -f -"
    if isinstance(error, NotFoundError):
        remedy = "create it or use" if error.message.startswith("namespaces ") else "give another name or"
        return f"{error.message}; {remedy} another --namespace"
    if isinstance(error, ForbiddenError) and " cannot " in error.message:
        return f"{error.message}; ask for the right, or use another --context"
    if isinstance(error, ForbiddenError | InvalidError):
        return error.message
    return f"the API server says {error.status} {error.reason}: {error.message}"
