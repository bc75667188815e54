"""The driver of `finetune run`, which runs pods as processes of this machine.

A pod's command runs under `supervise.py`, which ends all processes of the pod together. The log of a pod is a file that
remains after the pod is removed; its emptyDir volumes are folders that are removed with it. Each pod gets an address
when it is created, so that all pods of a Job know each other's addresses before the first of them starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from finetune_operator.kube.pod_http import PodHttp, pod_url
from finetune_operator.local import memory, pods, supervise
from finetune_operator.local.addresses import LoopbackAddresses, NoAddressError, loopback_interface
from finetune_operator.local.container import CannotStartError, Claims, Container, build
from finetune_operator.local.driver import PodHost
from finetune_operator.protocol import PODS, Object

NODE = "laptop"
RETRY_SECONDS = 1.0
"""Seconds between two tries to start a container that lacks a Secret, a ConfigMap or a claim."""


@dataclass
class Running:
    """The driver's state of a pod, from its creation to its removal."""

    ip: str
    folder: Path
    task: asyncio.Task[None] | None = None
    starting: bool = False
    """Whether the pod's process exists or is being started; before that, the pod can be removed without stopping it."""
    ran_out_of_memory: bool = False
    """Whether the pod was ended because it used more memory than its limit."""
    _process: asyncio.subprocess.Process | None = None
    _stop_asked: bool = False
    _kill_asked: bool = False

    def started(self, process: asyncio.subprocess.Process) -> None:
        """Store the started process, and stop or kill it if that was requested meanwhile."""
        self._process = process
        if self._stop_asked:
            self.stop()
        if self._kill_asked:
            self.kill()

    def stop(self) -> None:
        """Send SIGTERM to the pod's supervisor, which passes it to the command."""
        self._stop_asked = True
        if self._process and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Close the supervisor's pipe, so that it kills all processes of the pod."""
        self._kill_asked = True
        if self._process and self._process.stdin:
            self._process.stdin.close()


class ProcessDriver:
    """A `PodDriver` that starts processes."""

    def __init__(self, claims: Claims, logs: Path | None = None) -> None:
        """Create a driver without pods.

        `claims` are the folders that stand for claims; `logs` is the folder for log files, by default one that is
        removed at the end.
        """
        self._claims = claims
        self._log_folder = logs
        self._addresses = LoopbackAddresses()
        self._http = PodHttp()
        self._running: dict[str, Running] = {}
        self._grace_periods: set[asyncio.Task[None]] = set()
        self._host: PodHost
        self._folder: Path

    def logs(self, namespace: str, name: str) -> Path:
        """Return the path of a pod's log file, which is created when the container starts and outlives the pod."""
        return (self._log_folder or self._folder / "logs") / namespace / f"{name}.log"

    # ---- PodDriver ---------------------------------------------------------------------------------------------------

    async def start(self, host: PodHost) -> None:
        self._host = host
        self._folder = Path(tempfile.mkdtemp(prefix="finetune-"))

    async def close(self) -> None:
        for task in self._grace_periods:
            task.cancel()
        running = list(self._running.values())
        for pod in running:
            if pod.starting:
                pod.kill()
            elif pod.task:
                pod.task.cancel()
        await asyncio.gather(*(pod.task for pod in running if pod.task), return_exceptions=True)
        await self._http.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def pod_added(self, pod: Object) -> None:
        try:
            ip = self._addresses.take()
        except NoAddressError as error:
            message = str(error)
            self._host.update_pod(pod, lambda p: pods.set_rejected(p, "OutOfAddresses", message, self._now()))
            return
        meta = pod["metadata"]
        running = Running(ip, self._folder / meta["uid"][:8])
        self._running[meta["uid"]] = running
        self._host.update_pod(pod, lambda current: pods.set_scheduled(current, NODE, self._now()))
        running.task = asyncio.create_task(self._run(pod, running), name=f"pod {meta['name']}")

    def pod_terminating(self, pod: Object) -> None:
        running = self._running[pod["metadata"]["uid"]]
        if not running.starting:
            self._host.remove_pod(pod)
            return
        running.stop()
        grace_period = asyncio.create_task(self._kill_after(pods.grace_seconds(pod), running))
        self._grace_periods.add(grace_period)
        grace_period.add_done_callback(self._grace_periods.discard)

    def pod_removed(self, pod: Object) -> None:
        running = self._running.pop(pod["metadata"]["uid"], None)
        if running is None:
            return
        if running.task and running.task is not asyncio.current_task():
            running.task.cancel()
        self._addresses.give_back(running.ip)
        shutil.rmtree(running.folder, ignore_errors=True)

    async def fetch(self, pod: Object, port: int, path: str, limit: int, timeout: float) -> bytes | None:
        url = pod_url(pod, port, path, on_loopback=True)
        return await self._http.get(url, limit, timeout) if url else None

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._host.clock.now()

    async def _run(self, pod: Object, running: Running) -> None:
        """Run a pod from the first try to start its container until the pod has ended."""
        container = await self._prepared(pod, running)
        running.starting = True
        try:
            process = await self._start(pod, container)
        except OSError as error:
            why = f"the process could not be started: {error}"
            self._host.update_pod(pod, lambda p: pods.set_rejected(p, "StartError", why, self._now()))
            return
        self._host.update_pod(pod, lambda p: pods.set_running(p, running.ip, self._now()))
        running.started(process)
        watch = asyncio.create_task(self._end_beyond_limit(pod, process.pid, running))
        code = await process.wait()
        watch.cancel()
        exit_code = code if code >= 0 else 128 - code
        message = _read_message(container.termination_message)
        reason = "OOMKilled" if running.ran_out_of_memory else None
        current = self._host.update_pod(pod, lambda p: pods.set_finished(p, exit_code, message, self._now(), reason))
        if current and pods.is_terminating(current):
            self._host.remove_pod(current)

    async def _start(self, pod: Object, container: Container) -> asyncio.subprocess.Process:
        log_file = self.logs(pod["metadata"]["namespace"], pod["metadata"]["name"])
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", supervise.__file__),
                *container.command,
                env={"GLOO_SOCKET_IFNAME": loopback_interface(), **container.env},
                cwd=container.directory,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )

    async def _prepared(self, pod: Object, running: Running) -> Container:
        """Return the process to start, as soon as everything that it needs exists."""
        while True:
            try:
                return build(
                    self._current(pod), running.folder, running.ip, self._peers(), self._host.peek, self._claims
                )
            except CannotStartError as error:
                reason, message = error.reason, error.message
                self._host.update_pod(pod, lambda p: pods.set_waiting(p, reason, message, self._now()))  # noqa: B023
            await self._host.clock.sleep(RETRY_SECONDS)

    def _current(self, pod: Object) -> Object:
        return self._host.peek(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"]) or pod

    def _peers(self) -> list[Object]:
        """Return the pods that have addresses, with these in their status as if they ran already."""
        peers = [(pod, self._running.get(pod["metadata"]["uid"])) for pod in self._host.all_pods()]
        return [{**pod, "status": {**pod["status"], "podIP": peer.ip}} for pod, peer in peers if peer]

    async def _end_beyond_limit(self, pod: Object, pid: int, running: Running) -> None:
        """End a pod that uses more memory than its limit, as the kernel does on a cluster."""
        limit = memory.limit_of(pod)
        while limit is not None:
            await asyncio.sleep(memory.SECONDS_BETWEEN_LOOKS)
            if await asyncio.to_thread(memory.memory_of, pid) > limit:
                running.ran_out_of_memory = True
                running.kill()
                return

    async def _kill_after(self, seconds: float, running: Running) -> None:
        await self._host.clock.sleep(seconds)
        running.kill()


def _read_message(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(pods.MAX_TERMINATION_MESSAGE_BYTES).decode(errors="replace")
    return ""
