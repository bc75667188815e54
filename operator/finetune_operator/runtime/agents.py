"""Requests GET /status from the agents of pods, all at once, each with a short deadline.

The answers are used for progress and WorldReady only. An answer is dropped if it is late, too long, unreadable, not
from this attempt, or about other ranks than the pod's own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from urllib.parse import urlencode

from pydantic import ValidationError

from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.core.observed.views import PodView
from finetune_operator.core.status.progress import valid
from finetune_operator.protocol import Cluster, Object
from finetune_trainer.contract import MAX_STATUS_BYTES, NONCE_PARAMETER, REQUEST_PARAMETER, STATUS_PATH, PodStatus

TIMEOUT = 2.0

logger = logging.getLogger(__name__)


async def ask(
    cluster: Cluster, run: RunStatus, namespace: str, pods: Sequence[PodView], port: int, checkpoint: str = ""
) -> dict[str, PodStatus]:
    """Return the valid answers, by pod UID.

    `checkpoint` is the text of a checkpoint request, which is passed on to the agents; empty if there is none.
    """
    path = _path(run, checkpoint)
    answers = await asyncio.gather(*(_ask(cluster, _address(namespace, pod), port, path) for pod in pods))
    heard = zip(pods, answers, strict=True)
    return {pod.uid: answer for pod, answer in heard if answer and valid(run, answer, pod.uid, pod.index)}


def _address(namespace: str, pod: PodView) -> Object:
    """Return the fields of a pod that are needed to dial it."""
    return {"metadata": {"name": pod.name, "namespace": namespace, "uid": pod.uid}, "status": {"podIP": pod.ip}}


def _path(run: RunStatus, checkpoint: str) -> str:
    query = urlencode({REQUEST_PARAMETER: checkpoint, NONCE_PARAMETER: run.nonce}) if checkpoint else ""
    return f"{STATUS_PATH}?{query}" if query else STATUS_PATH


async def _ask(cluster: Cluster, pod: Object, port: int, path: str) -> PodStatus | None:
    body = await cluster.pod_status(pod, port, path, MAX_STATUS_BYTES, TIMEOUT)
    try:
        return PodStatus.model_validate_json(body) if body else None
    except ValidationError as error:
        # The answer itself is not logged, because it may contain anything.
        logger.debug("%s answered nonsense: %d faults", pod["metadata"]["name"], error.error_count())
        return None
