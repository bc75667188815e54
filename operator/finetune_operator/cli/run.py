"""The command `finetune run`: run the operator on this machine, with an in-memory cluster whose pods are processes."""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib.util
import logging
import os
import signal
from contextlib import suppress
from typing import Any

from rich.console import Console

from finetune_operator.api.v1alpha1 import FineTuneJob
from finetune_operator.cli import machine
from finetune_operator.cli.display import Display, show_failure, show_result
from finetune_operator.cli.errors import UsageError
from finetune_operator.cli.exit_codes import DONE, INTERRUPTED
from finetune_operator.cli.follow import follow
from finetune_operator.cli.jobs import read_job
from finetune_operator.constants import DEFAULT_CLAIM, HUB_TOKEN_KEY
from finetune_operator.core.run.resolve import refusals, storage_claim
from finetune_operator.core.settings import Settings
from finetune_operator.local.cluster import LocalCluster
from finetune_operator.local.driver import SECRETS
from finetune_operator.local.processes import ProcessDriver
from finetune_operator.protocol import FINETUNEJOBS, PODS, NotFoundError
from finetune_operator.runtime.run_locally import run_locally


def main(options: argparse.Namespace) -> int:
    manifest, job = read_job(options.file)
    if faults := refusals(job.spec, Settings(image="", local=True)):
        raise UsageError(*(f"{options.file}: {fault}" for fault in faults))
    if importlib.util.find_spec("deepspeed") is None:
        raise UsageError("the trainer is not installed; run: pip install 'finetune-operator[trainer]'")
    workspace = machine.workspace_folder(options.workspace)
    folders = {**machine.claim_folders(options.claim), storage_claim(job.spec, DEFAULT_CLAIM): workspace}
    if faults := machine.faults(job.spec, folders):
        raise UsageError(*(f"{options.file}: {fault}" for fault in faults))
    machine.make_writable(workspace)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    return asyncio.run(_run(manifest, job, folders))


async def _run(manifest: dict[str, Any], job: FineTuneJob, folders: machine.Folders) -> int:
    namespace, name = job.metadata.namespace, job.metadata.name
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, interrupted.set)
    console = Console(highlight=False)
    async with run_locally(ProcessDriver(folders), machine.operator_settings(), namespace) as (cluster, operator):
        await _add_token(cluster, job)
        await cluster.create(FINETUNEJOBS, {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}})
        with Display(console) as display:
            following = asyncio.create_task(follow(cluster, namespace, name, display))
            refused = asyncio.create_task(_refusal(cluster, namespace))
            stopping = asyncio.create_task(interrupted.wait())
            await asyncio.wait({following, refused, stopping, operator}, return_when=asyncio.FIRST_COMPLETED)
        if operator.done():
            operator.result()
        if refused.done():
            raise UsageError(refused.result())
        if not following.done():
            following.cancel()
            console.print("Stopping …  (Ctrl-C again: at once)")
            interrupted.clear()
            stopped = asyncio.create_task(_stop(cluster, namespace, name))
            await asyncio.wait({stopped, asyncio.create_task(interrupted.wait())}, return_when=asyncio.FIRST_COMPLETED)
            return INTERRUPTED
        code, status = following.result()
        if code == DONE:
            show_result(console, status, f"{folders[storage_claim(job.spec, DEFAULT_CLAIM)]}/")
        else:
            show_failure(Console(stderr=True, highlight=False), status)
        return code


async def _add_token(cluster: LocalCluster, job: FineTuneJob) -> None:
    """Create the secret that the job names, with the user's own HF_TOKEN as its content."""
    token = os.environ.get(HUB_TOKEN_KEY)
    if job.spec.model.secret_name and token:
        metadata = {"name": job.spec.model.secret_name, "namespace": job.metadata.namespace}
        encoded = base64.b64encode(token.encode()).decode()
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {HUB_TOKEN_KEY: encoded}}
        await cluster.create(SECRETS, secret)


async def _refusal(cluster: LocalCluster, namespace: str) -> str:
    """Wait for a pod that cannot start on this machine, and return the reason.

    In a local run nobody would add what such a pod waits for.
    """
    async for event in cluster.watch(PODS, namespace):
        for container in event.object.get("status", {}).get("containerStatuses", []):
            if waiting := container["state"].get("waiting"):
                return f"spec.podTemplate: {waiting['message']}; remove what needs it for 'finetune run'"
    raise AssertionError("a watch does not end")


async def _stop(cluster: LocalCluster, namespace: str, name: str) -> None:
    """Delete the job and wait until its processes have ended, for which they have the grace period."""
    with suppress(NotFoundError):
        await cluster.delete(FINETUNEJOBS, namespace, name)
    await cluster.idle()
