"""Asking the agents: GET /status of pods, all at once, each with a short deadline.

Answers are for progress and WorldReady only. An answer that is late, too long, not ours, not readable, or that speaks
for other ranks than the pod's own is no answer.
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
    """The valid answers, by pod UID. `checkpoint`: the words with which a checkpoint is asked for."""
    path = _path(run, checkpoint)
    answers = await asyncio.gather(*(_ask(cluster, _address(namespace, pod), port, path) for pod in pods))
    heard = zip(pods, answers, strict=True)
    return {pod.uid: answer for pod, answer in heard if answer and valid(run, answer, pod.uid, pod.index)}


def _address(namespace: str, pod: PodView) -> Object:
    """As much of a pod as it takes to dial it."""
    return {"metadata": {"name": pod.name, "namespace": namespace, "uid": pod.uid}, "status": {"podIP": pod.ip}}


def _path(run: RunStatus, checkpoint: str) -> str:
    query = urlencode({REQUEST_PARAMETER: checkpoint, NONCE_PARAMETER: run.nonce}) if checkpoint else ""
    return f"{STATUS_PATH}?{query}" if query else STATUS_PATH


async def _ask(cluster: Cluster, pod: Object, port: int, path: str) -> PodStatus | None:
    body = await cluster.pod_status(pod, port, path, MAX_STATUS_BYTES, TIMEOUT)
    try:
        return PodStatus.model_validate_json(body) if body else None
    except ValidationError as error:
        # Not with what it said: that may be anything.
        logger.debug("%s answered nonsense: %d faults", pod["metadata"]["name"], error.error_count())
        return None
