"""A connection to a cluster, or a sentence about why there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from finetune_operator.cli.errors import UsageError
from finetune_operator.kube.client import ConfigurationError, KubeCluster
from finetune_operator.kube.errors import sentence_of
from finetune_operator.protocol import ApiError, ForbiddenError, NotFoundError


@asynccontextmanager
async def connect(context: str | None = None) -> AsyncIterator[KubeCluster]:
    """The cluster of the kubeconfig, or of the pod that this runs in. Raises UsageError, also for what the API server
    refuses while it is used."""
    try:
        cluster = await KubeCluster.connect(context=context)
    except ConfigurationError as error:
        raise UsageError(f"there is no cluster to talk to ({error}); set KUBECONFIG or --context") from None
    try:
        yield cluster
    except ApiError as error:
        raise UsageError(sentence_of(error) + _remedy(error)) from None
    finally:
        await cluster.close()


def _remedy(error: ApiError) -> str:
    if error.status == 0:
        return "; check KUBECONFIG and --context"
    if isinstance(error, NotFoundError) and '"' in error.message:
        verb = "create it or use" if error.message.startswith("namespaces ") else "give another name or"
        return f"; {verb} another --namespace"
    if isinstance(error, ForbiddenError) and " cannot " in error.message:
        return "; ask for the right, or use another --context"
    return ""
