"""The command `finetune logs`: print the log of a pod of a FineTuneJob's newest attempt."""

from __future__ import annotations

import argparse
import asyncio
import sys

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.cli.connect import connect
from finetune_operator.cli.errors import UsageError
from finetune_operator.core.run.naming import child_name
from finetune_operator.protocol import FINETUNEJOBS, PODS


def main(options: argparse.Namespace) -> int:
    return asyncio.run(_logs(options))


async def _logs(options: argparse.Namespace) -> int:
    async with connect(options.context) as cluster:
        namespace = options.namespace or cluster.namespace
        describe = f"kubectl describe ftj {options.name} -n {namespace}"
        job = await cluster.get(FINETUNEJOBS, namespace, options.name)
        run = FineTuneJobStatus.model_validate(job.get("status", {})).run
        if run is None:
            raise UsageError(f"{options.name} has not started yet; look at: {describe}")
        if not 0 <= options.index < run.nodes:
            raise UsageError(f"--index: {options.index} is not a pod of {options.name}; use 0 to {run.nodes - 1}")
        child = child_name(options.name, job["metadata"]["uid"], run.number, run.attempt)
        wanted = {constants.LABEL_JOB_NAME: child, constants.LABEL_INDEX: str(options.index)}
        pods = await cluster.list(PODS, namespace, wanted)
        if not pods:
            raise UsageError(f"pod {options.index} of {child} is not there (any more); look at: {describe}")
        async for line in cluster.read_log(namespace, pods[0]["metadata"]["name"], follow=options.follow):
            sys.stdout.write(line)
            sys.stdout.flush()
    return 0
