"""Connects kopf, which serves as informer: its watches and relists bring events to the intake. No other file uses kopf.

Only `on.event` is used. Create, update and timer handlers would put finalizers on FineTuneJobs, and deleting one would
hang while the operator is down. An error in an event handler is not retried, so a handler only enqueues.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import kopf

from finetune_operator import constants
from finetune_operator.protocol import FINETUNEJOBS, ApiError, Resource
from finetune_operator.runtime.intake import Intake


class _NoDiffs(kopf.DiffBaseStorage):
    """A storage that keeps no diffs.

    For change handlers, which this operator does not have, kopf would copy and compare every object.
    """

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """A storage that keeps no handler progress, because event handlers have none."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


def settings_for_informing(watched: Iterable[Resource]) -> kopf.OperatorSettings:
    """Return settings with which kopf watches only our objects, posts no events and has no peers."""
    settings = kopf.OperatorSettings()
    ours = f"{constants.LABEL_MANAGED_BY}={constants.MANAGER}"
    # The server filters the objects: otherwise an operator for a whole cluster would read every pod in it.
    for resource in watched:
        if resource != FINETUNEJOBS:
            settings.watching.label_selectors[resource.group, resource.version, resource.plural] = ours
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.queueing.exit_timeout = 0.5
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.persistence.progress_storage = _NoProgress()
    return settings


def registry_for(intake: Intake) -> kopf.OperatorRegistry:
    """Return a registry with one event handler for each kind that is watched."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(kopf.login_via_client)
    for resource in intake.watched:
        _register(registry, resource, intake)
    return registry


def _register(registry: kopf.OperatorRegistry, resource: Resource, intake: Intake) -> None:
    @kopf.on.event(resource.group, resource.version, resource.plural, id=resource.plural, registry=registry)
    async def saw(body: kopf.Body, **event: Any) -> None:
        intake.saw(resource, dict(body), gone=event["type"] == "DELETED")


async def inform(intake: Intake, namespaces: list[str] | None, take_signals: Callable[[], None]) -> None:
    """Watch until cancelled, in all namespaces if `namespaces` is None.

    kopf installs signal handlers of its own when it begins; `take_signals` replaces them by ours. Raises ApiError when
    a watch has ended for good.
    """
    logging.getLogger("kopf").setLevel(logging.WARNING)
    before = asyncio.all_tasks()
    try:
        tasks = await kopf.spawn_tasks(
            registry=registry_for(intake),
            settings=settings_for_informing(intake.watched),
            clusterwide=namespaces is None,
            namespaces=namespaces or [],
        )
        take_signals()
        await kopf.run_tasks(tasks, ignored=before)
    except Exception as error:
        raise ApiError(0, "WatchesEnded", f"the watches have ended: {error}") from error
