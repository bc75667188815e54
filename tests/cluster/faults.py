"""What the tests of faults stand on: a namespace, operators that can be killed, and ranks that do as they are told.

The pods run the real agent. Below it the store and the rank are stand-ins (`stand_in_rank.py`), so that a pod trains as
soon as it is there, and for as long as the test wants.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cluster.image import DEFAULT_IMAGE, TEST_IMAGE
from support.http import get
from support.kubectl import Kubectl
from support.manifests import manifest

from finetune_operator.local.ports import free_port

ROOT = Path(__file__).parents[2]
STAND_IN = "/workspace/.stand-in"
OF_THE_AGENT = ("annotated_types", "psutil", "pydantic", "pydantic_core", "typing_extensions.py", "typing_inspection")
"""What the agent imports and an image without packages lacks."""
DEADLINE = 120.0
"""Seconds until what a test waits for has happened."""
NOT_COMPARED = {"events", "events.events.k8s.io"}
"""Kinds whose objects outlive what they are about."""
TWO_NODES = {
    "nodes": 2,
    "gpusPerNode": 0,
    "processesPerNode": 1,
    "cpu": "900m",
    "memory": "256Mi",
    "sharedMemory": "16Mi",
}
ONE_NODE = {**TWO_NODES, "nodes": 1}
SETTLED = {"Complete": {"Ready", "Complete"}, "Failed": {"Stalled", "Failed"}, "Suspended": {"Suspended"}}
"""The conditions that are true in a phase in which nothing goes on, beside WorldReady, which is a fact of its own."""

Found = TypeVar("Found")


def eventually(what: Callable[[], Found], told: Callable[[], Any] = lambda: "", seconds: float = DEADLINE) -> Found:
    """The first true value. Fails when the time is over, with what is told then."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {told()}"
        time.sleep(0.2)
    return found


class Operator:
    """`finetune operator` for some namespaces, on this machine, with the pods' addresses in reach. Its Lease is in the
    first of them."""

    def __init__(self, namespaces: Sequence[str], folder: Path) -> None:
        self._log = folder / "operator.log"
        self._arguments = ["operator", "--trainer-image", TEST_IMAGE]
        for namespace in namespaces:
            self._arguments += ["--namespace", namespace]
        # As a container that starts again in its pod it is who it was, and waits for no lease to expire.
        identity = f"operator-{uuid.uuid4().hex[:8]}"
        self._environment = os.environ | {
            "KUBECONFIG": str(Kubectl(namespaces[0]).own_kubeconfig(folder / "kubeconfig")),
            "POD_ID": identity,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def start(self, leads: bool = True) -> None:
        """Returns when it leads, or is ready to; it may be so already."""
        if self.is_alive():
            return
        self._port = free_port()
        command = [sys.executable, "-m", "finetune_operator.cli.main", *self._arguments, "--http-port", str(self._port)]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(command, env=self._environment, stderr=output)
        eventually(lambda: get(self._port, "/readyz") == (200, "ok"), self.log)
        if leads:
            eventually(self.leads, self.log)

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def leads(self) -> bool:
        """By its own metrics; if not, it waits to."""
        answer = get(self._port, "/metrics")
        return answer is not None and "finetune_leader 1.0" in answer[1].splitlines()

    def kill(self) -> None:
        """At once, as when its machine loses its power."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """In an orderly manner, if it runs."""
        if self._process and self.is_alive():
            self._process.terminate()
            assert self._process.wait(30) == 0

    def log(self) -> str:
        return self._log.read_text()


@dataclass
class Ground:
    """A namespace with an operator."""

    kubectl: Kubectl
    workspace: Path
    operator: Operator
    before: set[str] = field(default_factory=set)
    """All objects of the namespace when no job was there."""

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def start(self, name: str, *orders: str, **changes: Any) -> None:
        """Apply a job of two nodes, with changes by dotted path; its ranks begin with those orders."""
        shutil.rmtree(self.workspace / "orders" / name, ignore_errors=True)
        for order in orders:
            self.order(name, order)
        self.kubectl.apply(self.manifest(name, **changes))

    def manifest(self, name: str, **changes: Any) -> dict[str, Any]:
        ours = {
            "metadata.namespace": self.kubectl.namespace,
            "spec.resources": TWO_NODES,
            "spec.podTemplate.env": [{"name": "PYTHONPATH", "value": f"{STAND_IN}:/workspace/.packages"}],
        }
        return manifest(name, **{**ours, **changes})

    def order(self, job: str, order: str) -> None:
        """From now on the job's ranks do that."""
        folder = self.workspace / "orders" / job
        folder.mkdir(parents=True, exist_ok=True)
        (folder / order).touch()

    def countermand(self, job: str, order: str) -> None:
        """From now on they do not."""
        (self.workspace / "orders" / job / order).unlink()

    def edit(self, job: str, **spec: Any) -> None:
        """Fields of the spec."""
        self.kubectl.run("patch", "ftj", job, "--type=merge", "-p", json.dumps({"spec": spec}))

    # ---- what is seen -----------------------------------------------------------------------------------------------

    def status(self, job: str) -> dict[str, Any]:
        status: dict[str, Any] = self.kubectl.get("ftj", job).get("status", {})
        return status

    def until(self, job: str, what: Callable[[dict[str, Any]], Any], seconds: float = DEADLINE) -> dict[str, Any]:
        """The first status of which something is true."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.clear()
            seen.update(self.status(job))
            return bool(what(seen))

        eventually(look, lambda: f"{json.dumps(seen, indent=1)}\n{self.pods_at_a_glance()}", seconds)
        return seen

    def in_phase(self, job: str, phase: str, attempt: int | None = None, seconds: float = DEADLINE) -> dict[str, Any]:
        """The status in that phase, of a certain attempt; the conditions are those of the phase."""
        status = self.until(
            job,
            lambda s: s.get("phase") == phase and attempt in (None, s.get("run", {}).get("attempt")),
            seconds,
        )
        if phase in SETTLED:
            assert true_conditions(status) - {"WorldReady"} == SETTLED[phase]
            assert status["observedGeneration"] == self.kubectl.get("ftj", job)["metadata"]["generation"]
        else:
            assert {"Ready", "Stalled", "Failed", "Complete", "Suspended"}.isdisjoint(true_conditions(status))
            assert "Reconciling" in true_conditions(status)
        return status

    def training(self, job: str, attempt: int = 1) -> list[dict[str, Any]]:
        """The pods of an attempt, by index, when all its ranks are known to train."""
        status = self.in_phase(job, "Training", attempt)
        assert "WorldReady" in true_conditions(status)
        pods = self.pods(job, attempt)
        assert len(pods) == status["run"]["nodes"]
        return pods

    def pods(self, job: str, attempt: int | None = None) -> list[dict[str, Any]]:
        """By index."""
        labels = f"finetune.dev/job={job}" + (f",finetune.dev/attempt={attempt}" if attempt else "")
        pods: list[dict[str, Any]] = self.kubectl.get("pods", "-l", labels)
        return sorted(pods, key=lambda pod: pod["metadata"]["name"])

    def pods_at_a_glance(self) -> str:
        return self.kubectl.run("get", "pods", "-o", "wide").stdout

    def made_pods(self, job: str) -> list[str]:
        """Names of all pods that were ever made for the job, by the Job controller's events."""
        uid = self.kubectl.get("ftj", job)["metadata"]["uid"]
        events = self.kubectl.get("events", "--field-selector", "reason=SuccessfulCreate,involvedObject.kind=Job")
        of_job = (e for e in events if e["involvedObject"]["name"].startswith(f"{job}-{uid[:5]}-"))
        return sorted(e["message"].removeprefix("Created pod: ") for e in of_job)

    def everything(self) -> set[str]:
        """Names of all objects of the namespace but events."""
        listed = self.kubectl.run("api-resources", "--namespaced", "--verbs=list", "-o", "name").stdout
        kinds = ",".join(sorted(set(listed.split()) - NOT_COMPARED))
        return set(self.kubectl.run("get", kinds, "-o", "name").stdout.split())

    def is_clear(self) -> bool:
        """Whether all is as it was before any job."""
        return self.everything() == self.before

    # ---- ends -------------------------------------------------------------------------------------------------------

    def completes(self, job: str, attempt: int, seconds: float = DEADLINE) -> dict[str, Any]:
        """Let an attempt finish: the job is complete, and of its pods only those that finished are left, and for their
        log those that had failed in the attempt before."""
        self.order(job, "finish")
        complete = self.in_phase(job, "Complete", attempt, seconds)
        assert (complete["ledger"][-1]["class"], complete["ledger"][-1]["attempt"]) == ("Success", attempt)
        assert [entry["attempt"] for entry in complete["ledger"]] == list(range(1, attempt + 1))
        nodes = complete["run"]["nodes"]
        eventually(lambda: self._attempts_of_failed_pods(job) <= {attempt - 1}, self.pods_at_a_glance, seconds)
        assert [pod["status"]["phase"] for pod in self.pods(job, attempt)] == ["Succeeded"] * nodes
        children = self.kubectl.get("jobs", "-l", f"finetune.dev/job={job}")
        attempts = {int(child["metadata"]["labels"]["finetune.dev/attempt"]) for child in children}
        assert attempts == {attempt} | self._attempts_of_failed_pods(job)
        return complete

    def _attempts_of_failed_pods(self, job: str) -> set[int]:
        """0 stands for those of pods that neither failed nor finished."""
        phases = [(pod["metadata"]["labels"]["finetune.dev/attempt"], pod["status"]["phase"]) for pod in self.pods(job)]
        return {int(attempt) if phase == "Failed" else 0 for attempt, phase in phases if phase != "Succeeded"}

    def leaves_nothing(self, *jobs: str) -> None:
        """When the jobs are deleted, the namespace is as it was before."""
        self.kubectl.run("delete", "ftj", *jobs, "--timeout=30s")
        eventually(self.is_clear, lambda: self.everything() ^ self.before)

    def clear(self) -> None:
        """After a test, whatever became of it: an operator is at work, and no job is there."""
        self.operator.start()
        if self.kubectl.run("delete", "ftj", "--all", "--ignore-not-found", "--timeout=30s").stdout:
            eventually(self.is_clear, lambda: self.everything() ^ self.before)


@contextlib.contextmanager
def slots(kubectl: Kubectl) -> Iterator[dict[str, Any]]:
    """Each node has one of a resource that nobody else asks for, as long as the block runs. Gives `spec.resources` of a
    job of two nodes that takes one on each."""
    resource = f"{kubectl.namespace}.test/slot"
    nodes = ready_nodes(kubectl)
    for node in nodes:
        _patch_capacity(kubectl, node, {"op": "add", "value": "1"}, resource)
    try:
        eventually(lambda: all(_slot_of(kubectl, node, resource) == "1" for node in nodes))
        ours = {name: value for name, value in TWO_NODES.items() if name != "processesPerNode"}
        yield {**ours, "gpusPerNode": 1, "gpuResource": resource}
    finally:
        for node in nodes:
            _patch_capacity(kubectl, node, {"op": "remove"}, resource)


def _patch_capacity(kubectl: Kubectl, node: str, operation: dict[str, str], resource: str) -> None:
    path = f"/status/capacity/{resource.replace('/', '~1')}"
    patch = json.dumps([{**operation, "path": path}])
    kubectl.run("patch", "node", node, "--subresource=status", "--type=json", "-p", patch)


def _slot_of(kubectl: Kubectl, node: str, resource: str) -> str | None:
    found: dict[str, str] = kubectl.get("node", node)["status"]["allocatable"]
    return found.get(resource)


def ready_nodes(kubectl: Kubectl) -> list[str]:
    """Names of the nodes that take any pod."""
    return sorted(node["metadata"]["name"] for node in kubectl.get("nodes") if not node["spec"].get("taints"))


def true_conditions(status: dict[str, Any]) -> set[str]:
    """Types of the conditions that are true."""
    return {c["type"] for c in status.get("conditions", []) if c["status"] == "True"}


def message(status: dict[str, Any], kind: str = "Ready") -> str:
    """Of a condition; empty as long as it is not there."""
    return next((str(c["message"]) for c in status.get("conditions", []) if c["type"] == kind), "")


def reason(status: dict[str, Any], kind: str = "Ready") -> str:
    """Of a condition; empty as long as it is not there."""
    return next((str(c["reason"]) for c in status.get("conditions", []) if c["type"] == kind), "")


def classes(status: dict[str, Any]) -> list[tuple[str, bool]]:
    """Class of each ledger entry, and whether it is counted."""
    return [(entry["class"], entry["counted"]) for entry in status.get("ledger", [])]


@contextlib.contextmanager
def operating(namespaces: Sequence[str], folder: Path, leads: bool = True) -> Iterator[Operator]:
    """An operator that leads, or is ready to. It ends in an orderly manner, and has logged no traceback."""
    operator = Operator(namespaces, folder)
    try:
        operator.start(leads)
        yield operator
    finally:
        operator.stop()
        print(operator.log())
    assert "Traceback" not in operator.log()


def ground_in(kubectl: Kubectl, workspace: Path, operator: Operator) -> Ground:
    """The namespace with its workspace laid out, before any job."""
    lay_out_stand_in(workspace)
    for made_by_cluster in ("serviceaccount/default", "configmap/kube-root-ca.crt"):
        kubectl.run("wait", "--for=create", made_by_cluster, "--timeout=30s")
    ground = Ground(kubectl, workspace, operator)
    ground.before = ground.everything()
    return ground


def lay_out_stand_in(workspace: Path) -> None:
    """The trainer's package with the stand-ins for the store and the rank, and what the agent imports."""
    here, fakes = Path(__file__).parent, ROOT / "tests" / "unit" / "agent"
    stand_in, packages = workspace / ".stand-in", workspace / ".packages"
    shutil.copytree(ROOT / "trainer" / "finetune_trainer", stand_in / "finetune_trainer")
    shutil.copy(here / "stand_in_rank.py", stand_in / "finetune_trainer" / "rank.py")
    shutil.copy(fakes / "fake_rank.py", stand_in)
    shutil.copy(fakes / "fake_store.py", stand_in / "finetune_trainer" / "ranks" / "rendezvous.py")
    if TEST_IMAGE != DEFAULT_IMAGE:
        return
    packages.mkdir()
    for name in OF_THE_AGENT:
        source = Path(sysconfig.get_path("purelib")) / name
        if source.is_dir():
            shutil.copytree(source, packages / name)
        else:
            shutil.copy(source, packages)
