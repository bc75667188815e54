"""The command `finetune submit`: apply a FineTuneJob to a cluster with a server-side apply."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from finetune_operator.cli.connect import connect
from finetune_operator.cli.jobs import read_job
from finetune_operator.protocol import FINETUNEJOBS

FIELD_MANAGER = "finetune-cli"


def main(options: argparse.Namespace) -> int:
    manifest, _ = read_job(options.file)
    return asyncio.run(_submit(manifest, options))


async def _submit(manifest: dict[str, Any], options: argparse.Namespace) -> int:
    async with connect(options.context) as cluster:
        metadata = manifest["metadata"]
        namespace = options.namespace or metadata.get("namespace") or cluster.namespace
        wanted = {**manifest, "metadata": {**metadata, "namespace": namespace}}
        await cluster.apply(FINETUNEJOBS, wanted, FIELD_MANAGER)
        print(f"finetunejob.finetune.dev/{metadata['name']} applied to namespace {namespace}")
        print(f"Follow it with: finetune watch {metadata['name']} -n {namespace}")
    return 0
