"""finetune operator: the operator itself, in a pod or outside with a kubeconfig."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from contextlib import AsyncExitStack
from functools import partial

from finetune_operator.cli.connect import connect
from finetune_operator.cli.errors import UsageError
from finetune_operator.core.settings import Settings
from finetune_operator.runtime.app import operate
from finetune_operator.runtime.handlers import inform
from finetune_operator.runtime.health import Health, application, serve
from finetune_operator.runtime.metrics import Metrics

ENV_TRAINER_IMAGE = "FINETUNE_TRAINER_IMAGE"
DEFAULT_IMAGE = "finetune-trainer:latest"
HIGHEST_PORT = 65535


def main(options: argparse.Namespace) -> int:
    port = _port(options.http_port)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    image = options.trainer_image or os.environ.get(ENV_TRAINER_IMAGE, DEFAULT_IMAGE)
    asyncio.run(_operate(options, Settings(image=image), port))
    return 0


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(HIGHEST_PORT)) and int(text) <= HIGHEST_PORT):
        raise UsageError(f"--http-port: '{text}' is not a port; give a number from 1 to {HIGHEST_PORT}, or 0 for none")
    return int(text)


async def _operate(options: argparse.Namespace, settings: Settings, port: int) -> None:
    metrics, health = Metrics(), Health()
    async with AsyncExitStack() as stack:
        if port:
            try:
                await stack.enter_async_context(serve(application(health, metrics.registry), port))
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                sentence = f"--http-port: {port} cannot be opened ({reason}); give another port, or 0 for none"
                raise UsageError(sentence) from None
        cluster = await stack.enter_async_context(connect(agent_access=options.agent_access))
        informing = partial(inform, namespaces=options.namespace)
        await operate(cluster, settings, informing, options.namespace, metrics=metrics, health=health)
