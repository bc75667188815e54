"""Connects a command to a cluster, and turns errors of the API into messages for the user."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from finetune_operator.cli.errors import UsageError
from finetune_operator.kube.client import ConfigurationError, KubeCluster
from finetune_operator.kube.errors import sentence_of
from finetune_operator.protocol import ApiError, ForbiddenError, NotFoundError


@asynccontextmanager
async def connect(context: str | None = None) -> AsyncIterator[KubeCluster]:
    """Connect to the cluster of the kubeconfig, or of the pod that this process runs in.

    Raises UsageError if there is no usable configuration, and for each ApiError while the connection is used.
    """
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
