"""Runs an operator on this machine, over an in-memory cluster of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from finetune_operator.core.settings import Settings
from finetune_operator.local.cluster import Admit, LocalCluster
from finetune_operator.local.driver import PodDriver
from finetune_operator.local.finetunejobs import admit
from finetune_operator.runtime.app import Options, operate
from finetune_operator.runtime.watch import inform


@asynccontextmanager
async def run_locally(
    driver: PodDriver,
    settings: Settings,
    namespace: str,
    options: Options | None = None,
    admission: Admit | None = admit,
) -> AsyncIterator[tuple[LocalCluster, asyncio.Task[None]]]:
    """Yield a cluster with one namespace, whose pods `driver` runs, and the operator's task. Both end with the block.

    `admission` checks FineTuneJobs; None admits all of them.
    """
    cluster = LocalCluster(driver, admit=admission)
    cluster.add_namespace(namespace)
    await cluster.start()
    operator = asyncio.create_task(operate(cluster, settings, partial(inform, cluster), options))
    try:
        yield cluster, operator
    finally:
        operator.cancel()
        await asyncio.gather(operator, return_exceptions=True)
        await cluster.close()
