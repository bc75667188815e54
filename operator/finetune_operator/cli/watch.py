"""The command `finetune watch`: follow a FineTuneJob in a cluster to its end."""

from __future__ import annotations

import argparse
import asyncio

from rich.console import Console

from finetune_operator.cli.connect import connect
from finetune_operator.cli.display import Display, show_failure, show_result
from finetune_operator.cli.exit_codes import DONE
from finetune_operator.cli.follow import follow
from finetune_operator.protocol import FINETUNEJOBS


def main(options: argparse.Namespace) -> int:
    return asyncio.run(_watch(options))


async def _watch(options: argparse.Namespace) -> int:
    console = Console(highlight=False)
    async with connect(options.context) as cluster:
        namespace = options.namespace or cluster.namespace
        await cluster.get(FINETUNEJOBS, namespace, options.name)  # raises if the job does not exist
        with Display(console) as display:
            code, status = await follow(cluster, namespace, options.name, display)
    if code == DONE:
        assert status.run is not None
        show_result(console, status, f"pvc://{status.run.claim_name}/")
    else:
        show_failure(Console(stderr=True, highlight=False), status)
    return code
