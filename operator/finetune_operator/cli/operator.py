"""The command `finetune operator`: run the operator, in a pod or with a kubeconfig outside of the cluster."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial

from finetune_operator.cli.configuration import lease_name, read_settings
from finetune_operator.cli.errors import UsageError
from finetune_operator.core.settings import Settings
from finetune_operator.kube.client import AgentAccess, ConfigurationError, KubeCluster
from finetune_operator.runtime.app import Options, operate
from finetune_operator.runtime.handlers import inform
from finetune_operator.runtime.health import Health, application, serve
from finetune_operator.runtime.leader import Candidate
from finetune_operator.runtime.metrics import Metrics

HIGHEST_PORT = 65535
TRY_AGAIN = 5.0
"""Seconds until unusable credentials are read again."""
REQUESTS_AT_ONCE = 5
"""The maximum number of concurrent requests: with these, an API server on two cores reaches its highest rate.

More requests would only wait there and delay other clients, above all the Job controller, which creates the pods.
"""


def main(options: argparse.Namespace) -> int:
    port = _port(options.http_port)
    settings = read_settings(options.config, options.trainer_image)
    lease = lease_name(options.config, options.namespace)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with suppress(asyncio.CancelledError):  # SIGTERM cancels the task
        asyncio.run(_operate(options, settings, lease, port))
    return 0


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(HIGHEST_PORT)) and int(text) <= HIGHEST_PORT):
        raise UsageError(f"--http-port: '{text}' is not a port; give a number from 1 to {HIGHEST_PORT}, or 0 for none")
    return int(text)


async def _operate(options: argparse.Namespace, settings: Settings, lease: str, port: int) -> None:
    metrics, health = Metrics(), Health()
    task = asyncio.current_task()
    assert task is not None
    _on_signals(task.cancel)
    async with AsyncExitStack() as stack:
        if port:
            try:
                await stack.enter_async_context(serve(application(health, metrics.registry), port))
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                sentence = f"--http-port: {port} cannot be opened ({reason}); give another port, or 0 for none"
                raise UsageError(sentence) from None
        cluster = await _connect(options.agent_access, health, REQUESTS_AT_ONCE)
        stack.push_async_callback(cluster.close)
        leases = await _connect(options.agent_access, health, 1)
        stack.push_async_callback(leases.close)
        stop = asyncio.Event()
        take_signals = partial(_on_signals, stop.set)
        take_signals()
        await operate(
            cluster,
            settings,
            partial(inform, namespaces=options.namespace, take_signals=take_signals),
            Options(
                namespaces=options.namespace,
                candidate=Candidate(cluster.namespace, lease, _identity()),
                leases=leases,
                stop=stop,
                metrics=metrics,
                health=health,
            ),
        )


def _on_signals(act: Callable[[], object]) -> None:
    """Call `act` on SIGTERM and SIGINT.

    The kernel ignores signals to the first process of a container unless the process has a handler for them.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, act)


def _identity() -> str:
    """Return the identity for the Lease: the pod's name, or outside of a pod a name that no other process has.

    When a container restarts in its pod, the previous one is dead, so it need not wait until the Lease expires.
    """
    return os.environ.get("POD_ID") or f"{socket.gethostname()}-{secrets.token_hex(4)}"


async def _connect(agent_access: AgentAccess, health: Health, at_once: int) -> KubeCluster:
    """Connect to the cluster, and retry until the kubeconfig or the service account can be read.

    So the operator needs no restart after these have been corrected.
    """
    while True:
        try:
            return await KubeCluster.connect(agent_access=agent_access, at_once=at_once)
        except ConfigurationError as error:
            health.blocked(f"there is no cluster to talk to ({error}); set KUBECONFIG to a kubeconfig")
        await asyncio.sleep(TRY_AGAIN)
