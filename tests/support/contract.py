"""The clusters of the contract tests: a real one, and the in-memory one with scripted pods or with processes.

Pods follow plans that a test writes, one for each completion index. A process, on this machine or in a container, reads
its plan from its command line; for the scripted driver this module carries the plan out.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import shlex
import subprocess
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.constants import LABEL_INDEX
from finetune_operator.kube.client import AgentAccess, KubeCluster
from finetune_operator.kube.transport import Transport
from finetune_operator.local.cluster import LocalCluster
from finetune_operator.local.finetunejobs import admit
from finetune_operator.local.processes import ProcessDriver
from finetune_operator.protocol import (
    JOBS,
    PODS,
    ApiError,
    Cluster,
    ConflictError,
    Event,
    ForbiddenError,
    Object,
    Resource,
)
from support.jobs import job
from support.scripted import ScriptedDriver

ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("FINETUNE_TEST_IMAGE", "localhost/trainer-test:dev")
AGENT_ACCESS: AgentAccess = "direct" if os.environ.get("FINETUNE_TEST_AGENT_ACCESS") == "direct" else "proxy"
"""How tests reach a pod's agent; the proxy also works where pod addresses cannot be reached."""
DEADLINE = 60
"""Seconds until a wait fails."""
POWER = ("FINETUNE_STOP_NODE", "FINETUNE_START_NODE")
"""Environment variables with commands that stop and start a node; the node's name is appended to each command."""

SCRIPT = """
import json, os, signal, sys, time
plan = json.loads(sys.argv[1])[int(os.environ["JOB_COMPLETION_INDEX"])]
code = plan["on_sigterm"]
signal.signal(signal.SIGTERM, signal.SIG_IGN if code is None else lambda *_: os._exit(code))
print("started", flush=True)
time.sleep(600 if plan["exit_code"] is None else plan["after"])
with open(os.environ["LAST_WORDS"], "w") as file:
    file.write(plan["message"])
sys.exit(plan["exit_code"])
"""


@dataclass(frozen=True)
class Plan:
    """The behaviour of one pod."""

    exit_code: int | None = None
    """The code with which the pod exits by itself; None: it runs until it is stopped."""
    message: str = ""
    """The termination message if the pod exits by itself."""
    on_sigterm: int | None = 75
    """The code with which the pod exits on SIGTERM; None: it ignores the signal. It is the same for all pods of a Job.
    """


STAYS = Plan()

ANSWERS = {"/status": b"I am well", "/long": b"x" * 20_000}
PORT = 8471
SERVER = f"""
import http.server, time

class Agent(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answers = {ANSWERS!r}
        if self.path in answers:
            self.send_response(200)
        else:
            self.send_response({{"/redirect": 302, "/broken": 500}}.get(self.path, 200))
        if self.path == "/redirect":
            self.send_header("Location", "/status")
        if self.path == "/compressed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(answers.get(self.path, b"something"))
        while self.path in ("/endless", "/drip"):
            self.wfile.write(b"x" * (1000 if self.path == "/endless" else 1))
            time.sleep(0.01 if self.path == "/drip" else 0)

    def log_message(self, *arguments):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 50

import os
server = Server((os.environ["IP"], {PORT}), Agent)
print("started", flush=True)
server.serve_forever()
"""


class Subject(ABC):
    """A cluster under test, with a namespace for one test."""

    cluster: Cluster
    namespace: str
    image = "none"
    run_seconds = 1.0
    """Seconds until a pod that exits by itself does so; by then its siblings have started."""

    @abstractmethod
    async def new_namespace(self) -> str:
        """Create a namespace that no other test uses and return its name."""

    async def edit(self, resource: Resource, name: str, change: Callable[[Object], None]) -> Object:
        """Change an object and retry on a conflict with a controller's writes."""
        while True:
            obj = await self.cluster.get(resource, self.namespace, name)
            change(obj)
            with contextlib.suppress(ConflictError):
                return await self.cluster.put(resource, obj)

    @abstractmethod
    async def refuse_pods(self, refuse: bool) -> None:
        """Refuse new pods from now on, as an exhausted quota does, or allow them again."""

    @abstractmethod
    async def log(self, pod: Object) -> str:
        """Return what the pod has printed so far."""

    async def start_server(self, name: str) -> Object:
        """Start a pod whose server answers at its address and PORT; return the pod when it runs."""
        address = {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
        command = ("python3", "-c", SERVER)
        manifest = job(name, self.namespace, *command, pods=1, image=self.image, grace=0, container={"env": [address]})
        await self.cluster.create(JOBS, manifest)
        (pod,) = await self.running(1)
        return pod

    async def start_job(self, name: str, *plans: Plan, grace: int = 5, **pod_spec: Any) -> Object:
        """Create a Job with one pod for each plan."""
        plan = json.dumps([{**dataclasses.asdict(plan), "after": self.run_seconds} for plan in plans])
        env = [{"name": "LAST_WORDS", "value": "/dev/termination-log"}]
        container = {"env": env, **pod_spec.pop("container", {})}
        command = ("python3", "-c", SCRIPT, plan)
        manifest = job(
            name,
            self.namespace,
            *command,
            pods=len(plans),
            image=self.image,
            grace=grace,
            container=container,
            **pod_spec,
        )
        return await self.cluster.create(JOBS, manifest)

    async def run_out_of_memory(self, name: str) -> None:
        """Create a Job whose pod exceeds its memory limit."""
        container = {"resources": {"limits": {"memory": "64Mi"}}}
        command = ("python3", "-c", "b'x' * 10**9")
        manifest = job(name, self.namespace, *command, pods=1, image=self.image, container=container)
        await self.cluster.create(JOBS, manifest)

    async def running(self, count: int) -> list[Object]:
        """Return the namespace's pods, sorted by index, when `count` of them have started and handle signals."""
        pods: list[Object] = []

        async def have_started() -> bool:
            pods[:] = await self.cluster.list(PODS, self.namespace)
            return len(pods) == count and all([await self._has_started(pod) for pod in pods])

        await self.until(have_started)
        return sorted(pods, key=lambda pod: pod["metadata"]["labels"][LABEL_INDEX])

    async def until(self, what: Callable[[], Any], seconds: float = DEADLINE) -> Any:
        """Return the first true result of `what`."""
        async with asyncio.timeout(seconds):
            while not (answer := await what()):
                await asyncio.sleep(0.02)
        return answer

    async def job_has(self, name: str, condition: str) -> Object:
        """Return the Job when the condition is True."""

        async def job_if() -> Object | None:
            found = await self.cluster.get(JOBS, self.namespace, name)
            return found if conditions(found).get(condition) == "True" else None

        result: Object = await self.until(job_if)
        return result

    @contextlib.asynccontextmanager
    async def watched(self, resource: Resource, labels: dict[str, str] | None = None) -> AsyncIterator[list[Event]]:
        """Yield a list to which a watch of the namespace appends its events, those of existing objects first."""
        events: list[Event] = []

        async def watch() -> None:
            async for event in self.cluster.watch(resource, self.namespace, labels):
                events.append(event)

        async def has_begun() -> bool:
            return {event.object["metadata"]["uid"] for event in events} >= existing

        existing = {obj["metadata"]["uid"] for obj in await self.cluster.list(resource, self.namespace, labels)}
        task = asyncio.create_task(watch())
        try:
            await self.until(has_begun)
            yield events
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _has_started(self, pod: Object) -> bool:
        return pod["status"].get("phase") == "Running" and "started" in await self.log(pod)


class Local(Subject):
    """The in-memory cluster."""

    cluster: LocalCluster
    _refuses_pods = False

    async def refuse_pods(self, refuse: bool) -> None:
        self._refuses_pods = refuse

    def _admit(self, resource: Resource, manifest: Object) -> Object:
        if resource == PODS and self._refuses_pods:
            message = f'pods "{manifest["metadata"]["name"]}" is forbidden: exceeded quota: none'
            raise ForbiddenError(403, "Forbidden", message)
        return admit(resource, manifest)

    async def new_namespace(self) -> str:
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.cluster.add_namespace(name)
        return name

    async def start(self) -> None:
        await self.cluster.start()
        self.namespace = await self.new_namespace()

    async def close(self) -> None:
        await self.cluster.close()


class Processes(Local):
    """The in-memory cluster with processes as pods."""

    def __init__(self, folder: Path) -> None:
        self._driver = ProcessDriver({}, folder)
        self.cluster = LocalCluster(self._driver, admit=self._admit)

    async def log(self, pod: Object) -> str:
        path = self._driver.logs(self.namespace, pod["metadata"]["name"])
        return path.read_text() if path.exists() else ""


class Scripted(Local):
    """The in-memory cluster whose pods are objects without processes."""

    run_seconds = 0.05

    def __init__(self) -> None:
        self.driver = ScriptedDriver(automatic=True)
        self.cluster = LocalCluster(self.driver, admit=self._admit)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await super().start()
        self._tasks.append(asyncio.create_task(self._follow_plans()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().close()

    async def log(self, pod: Object) -> str:
        return "started"

    async def start_server(self, name: str) -> Object:
        self.driver.answer = lambda pod, path: ANSWERS.get(path)
        await self.start_job(name, STAYS)
        (pod,) = await self.running(1)
        return pod

    async def run_out_of_memory(self, name: str) -> None:
        await self.start_job(name, STAYS)
        (pod,) = await self.running(1)
        self.driver.finish(pod, 137, reason="OOMKilled")

    async def evict(self, pod: Object) -> None:
        self.driver.evict(pod)

    @contextlib.asynccontextmanager
    async def without_node(self, name: str) -> AsyncIterator[None]:
        self.driver.lose_node(name)
        yield
        self.driver.return_node(name)

    async def _follow_plans(self) -> None:
        async for event in self.cluster.watch(PODS, None):
            if event.type == "ADDED":
                self._tasks.append(asyncio.create_task(self._follow(event.object)))

    async def _follow(self, pod: Object) -> None:
        plan = json.loads(pod["spec"]["containers"][0]["command"][-1])[int(pod["metadata"]["labels"][LABEL_INDEX])]
        self.driver.sigterm_exit_code = plan["on_sigterm"]
        if plan["exit_code"] is not None:
            await asyncio.sleep(plan["after"])
            self.driver.finish(pod, plan["exit_code"], plan["message"])


class Real(Subject):
    """The cluster of KUBECONFIG."""

    image = IMAGE
    run_seconds = 3.0
    cluster: KubeCluster

    async def start(self) -> None:
        self._namespaces: list[str] = []
        self._admin = await Transport.connect()
        self.cluster = KubeCluster(self._admin, AGENT_ACCESS)
        await self._define_finetunejobs()
        self.namespace = await self.new_namespace()

    async def close(self) -> None:
        for name in self._namespaces:
            await self._admin.request("DELETE", f"/api/v1/namespaces/{name}")
        await self.cluster.close()

    async def new_namespace(self) -> str:
        name = f"test-{uuid.uuid4().hex[:8]}"
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        await self._admin.request("POST", "/api/v1/namespaces", body=manifest)
        self._namespaces.append(name)
        await self.until(lambda: self._has_account(name))
        return name

    async def refuse_pods(self, refuse: bool) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/resourcequotas"
        if not refuse:
            await self._admin.request("DELETE", f"{path}/none")
            return
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
        await self._admin.request("POST", path, body={**quota, "spec": {"hard": {"pods": "0"}}})

    async def log(self, pod: Object) -> str:
        try:
            return "".join([line async for line in self.cluster.read_log(self.namespace, pod["metadata"]["name"])])
        except ApiError:
            return ""

    async def evict(self, pod: Object) -> None:
        meta = pod["metadata"]
        names = {"name": meta["name"], "namespace": meta["namespace"]}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": names}
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/eviction"
        await self._admin.request("POST", path, body=eviction)

    @contextlib.asynccontextmanager
    async def without_node(self, name: str) -> AsyncIterator[None]:
        """Stop the node for the duration of the block.

        The commands are those that tests/cluster/test_faults_node.py uses.
        """
        commands = [os.environ.get(variable) for variable in POWER]
        if not all(commands):
            pytest.skip(f"needs the commands that stop and start a node: set {' and '.join(POWER)}")
        stop, start = ([*shlex.split(command or ""), name] for command in commands)
        try:
            await asyncio.to_thread(subprocess.run, stop, check=True, stdout=subprocess.DEVNULL, timeout=120)
            yield
        finally:
            await asyncio.to_thread(subprocess.run, start, check=True, stdout=subprocess.DEVNULL, timeout=120)
            await self.until(lambda: self._takes_pods(name), seconds=120)

    async def _takes_pods(self, node: str) -> bool:
        found = await self._admin.request("GET", f"/api/v1/nodes/{node}")
        return conditions(found).get("Ready") == "True" and not found["spec"].get("taints")

    async def _define_finetunejobs(self) -> None:
        definition = yaml.safe_load((ROOT / "crds" / "finetunejobs.yaml").read_text())
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}"
        query = [("fieldManager", "finetune-test"), ("force", "true")]
        await self._admin.request("PATCH", path, query, definition, "application/apply-patch+yaml")

        async def established() -> bool:
            return conditions(await self._admin.request("GET", path)).get("Established") == "True"

        await self.until(established)

    async def _has_account(self, namespace: str) -> bool:
        """Return whether the namespace's default service account exists: no pod can be created before."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        with contextlib.suppress(ApiError):
            return bool(await self._admin.request("GET", path))
        return False


def conditions(obj: Object) -> dict[str, str]:
    """Return the status of each condition of an object, by type."""
    return {c["type"]: c["status"] for c in obj.get("status", {}).get("conditions", [])}


def terminated(pod: Object) -> Object:
    """Return the terminated state of the pod's container."""
    state: Object = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return state
