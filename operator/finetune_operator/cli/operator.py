"""finetune operator: the operator itself, in a pod or outside with a kubeconfig."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from functools import partial

from finetune_operator.cli.connect import connect
from finetune_operator.core.settings import Settings
from finetune_operator.runtime.app import operate
from finetune_operator.runtime.handlers import inform

ENV_TRAINER_IMAGE = "FINETUNE_TRAINER_IMAGE"
DEFAULT_IMAGE = "finetune-trainer:latest"


def main(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    image = options.trainer_image or os.environ.get(ENV_TRAINER_IMAGE, DEFAULT_IMAGE)
    asyncio.run(_operate(options, Settings(image=image)))
    return 0


async def _operate(options: argparse.Namespace, settings: Settings) -> None:
    async with connect(agent_access=options.agent_access) as cluster:
        await operate(cluster, settings, partial(inform, namespaces=options.namespace), options.namespace)
