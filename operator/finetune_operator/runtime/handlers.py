"""The only file that knows kopf, which serves as informer: its watches and relists bring events to the intake.

Only `on.event` is used. Create, update and timer handlers would put finalizers on FineTuneJobs, and deleting one would
hang while the operator is down. An error in an event handler is not retried, so a handler only enqueues.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import kopf

from finetune_operator import constants
from finetune_operator.protocol import FINETUNEJOBS, JOBS, PODS, ApiError, Resource
from finetune_operator.runtime.intake import Intake


def settings_for_informing() -> kopf.OperatorSettings:
    """Watch what is ours alone, post nothing, peer with nobody."""
    settings = kopf.OperatorSettings()
    ours = f"{constants.LABEL_MANAGED_BY}={constants.MANAGER}"
    # Filtered by the server: otherwise an operator of a whole cluster reads every pod in it.
    settings.watching.label_selectors[PODS.group, PODS.version, PODS.plural] = ours
    settings.watching.label_selectors[JOBS.group, JOBS.version, JOBS.plural] = ours
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    return settings


def registry_for(intake: Intake) -> kopf.OperatorRegistry:
    """One event handler for each kind that is watched."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(kopf.login_via_client)
    for resource in (FINETUNEJOBS, JOBS, PODS):
        _register(registry, resource, intake)
    return registry


def _register(registry: kopf.OperatorRegistry, resource: Resource, intake: Intake) -> None:
    @kopf.on.event(resource.group, resource.version, resource.plural, id=resource.plural, registry=registry)
    async def saw(body: kopf.Body, **_: Any) -> None:
        intake.saw(resource, dict(body))


async def inform(intake: Intake, namespaces: list[str] | None) -> None:
    """Watch until cancelled or SIGTERM; all namespaces when None. Raises ApiError when a watch has ended for good."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    try:
        await kopf.operator(
            registry=registry_for(intake),
            settings=settings_for_informing(),
            clusterwide=namespaces is None,
            namespaces=namespaces or [],
        )
    except Exception as error:
        # kopf has taken the signals for itself; until it is started again nobody would listen.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        raise ApiError(0, "WatchesEnded", f"the watches have ended: {error}") from error
