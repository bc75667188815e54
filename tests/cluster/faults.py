"""What the tests of faults share: a namespace, operators that can be killed, and ranks that follow orders.

The pods run the real agent. Its store and its rank are replaced by stand-ins (`stand_in_rank.py`), so that a pod trains
as soon as it runs, and for as long as the test wants.
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
"""The packages that the agent imports and that an image with only Python lacks."""
DEADLINE = 120.0
"""Seconds until a wait fails."""
NOT_COMPARED = {"events", "events.events.k8s.io"}
"""Kinds whose objects may remain after the objects that they describe."""
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
"""The conditions that are true in each phase without activity, except WorldReady, which is independent of the phase."""

Found = TypeVar("Found")


def eventually(what: Callable[[], Found], told: Callable[[], Any] = lambda: "", seconds: float = DEADLINE) -> Found:
    """Return the first true value of `what`; fail after `seconds` with the value of `told`."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {told()}"
        time.sleep(0.2)
    return found


class Operator:
    """`finetune operator` for some namespaces, on this machine, which must reach the pods' addresses.

    Its Lease is in the first namespace.
    """

    def __init__(self, namespaces: Sequence[str], folder: Path) -> None:
        self._log = folder / "operator.log"
        self._arguments = ["operator", "--trainer-image", TEST_IMAGE]
        for namespace in namespaces:
            self._arguments += ["--namespace", namespace]
        # Like a container that restarts in its pod, it keeps its identity and need not wait for a lease to expire.
        identity = f"operator-{uuid.uuid4().hex[:8]}"
        self._environment = os.environ | {
            "KUBECONFIG": str(Kubectl(namespaces[0]).own_kubeconfig(folder / "kubeconfig")),
            "POD_ID": identity,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def start(self, leads: bool = True) -> None:
        """Start the operator unless it runs already; return when it is ready and, with `leads`, the leader."""
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
        """Return whether the operator is the leader, according to its own metrics; otherwise it is a standby."""
        answer = get(self._port, "/metrics")
        return answer is not None and "finetune_leader 1.0" in answer[1].splitlines()

    def kill(self) -> None:
        """Kill the operator at once, as a power failure does."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stop the operator with a regular shutdown, if it runs."""
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
    """All objects of the namespace before the first job."""

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def start(self, name: str, *orders: str, **changes: Any) -> None:
        """Apply a job of two nodes, with changes by dotted path; its ranks begin with these orders."""
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
        """Give an order to the job's ranks."""
        folder = self.workspace / "orders" / job
        folder.mkdir(parents=True, exist_ok=True)
        (folder / order).touch()

    def countermand(self, job: str, order: str) -> None:
        """Withdraw an order from the job's ranks."""
        (self.workspace / "orders" / job / order).unlink()

    def edit(self, job: str, **spec: Any) -> None:
        """Edit fields of the spec."""
        self.kubectl.run("patch", "ftj", job, "--type=merge", "-p", json.dumps({"spec": spec}))

    # ---- observations -----------------------------------------------------------------------------------------------

    def status(self, job: str) -> dict[str, Any]:
        status: dict[str, Any] = self.kubectl.get("ftj", job).get("status", {})
        return status

    def until(self, job: str, what: Callable[[dict[str, Any]], Any], seconds: float = DEADLINE) -> dict[str, Any]:
        """Return the first status for which `what` is true."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.clear()
            seen.update(self.status(job))
            return bool(what(seen))

        eventually(look, lambda: f"{json.dumps(seen, indent=1)}\n{self.pods_at_a_glance()}", seconds)
        return seen

    def in_phase(self, job: str, phase: str, attempt: int | None = None, seconds: float = DEADLINE) -> dict[str, Any]:
        """Return the status when the job is in this phase and attempt, and check its conditions."""
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
        """Return the pods of an attempt, sorted by index, when all its ranks are known to train."""
        status = self.in_phase(job, "Training", attempt)
        assert "WorldReady" in true_conditions(status)
        pods = self.pods(job, attempt)
        assert len(pods) == status["run"]["nodes"]
        return pods

    def pods(self, job: str, attempt: int | None = None) -> list[dict[str, Any]]:
        """Return the pods, sorted by index."""
        labels = f"finetune.dev/job={job}" + (f",finetune.dev/attempt={attempt}" if attempt else "")
        pods: list[dict[str, Any]] = self.kubectl.get("pods", "-l", labels)
        return sorted(pods, key=lambda pod: pod["metadata"]["name"])

    def pods_at_a_glance(self) -> str:
        return self.kubectl.run("get", "pods", "-o", "wide").stdout

    def made_pods(self, job: str) -> list[str]:
        """Return the names of all pods ever created for the job, according to the Job controller's events."""
        uid = self.kubectl.get("ftj", job)["metadata"]["uid"]
        events = self.kubectl.get("events", "--field-selector", "reason=SuccessfulCreate,involvedObject.kind=Job")
        of_job = (e for e in events if e["involvedObject"]["name"].startswith(f"{job}-{uid[:5]}-"))
        return sorted(e["message"].removeprefix("Created pod: ") for e in of_job)

    def everything(self) -> set[str]:
        """Return the names of all objects of the namespace except events."""
        listed = self.kubectl.run("api-resources", "--namespaced", "--verbs=list", "-o", "name").stdout
        kinds = ",".join(sorted(set(listed.split()) - NOT_COMPARED))
        return set(self.kubectl.run("get", kinds, "-o", "name").stdout.split())

    def is_clear(self) -> bool:
        """Return whether the namespace has the same objects as before the first job."""
        return self.everything() == self.before

    # ---- ends of a job ----------------------------------------------------------------------------------------------

    def completes(self, job: str, attempt: int, seconds: float = DEADLINE) -> dict[str, Any]:
        """Let an attempt finish and return the status of the complete job.

        Of the job's pods only those remain that finished, and the failed ones of the previous attempt, for their log.
        """
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
        """Return the attempts that have failed pods, and 0 if a pod has neither failed nor succeeded."""
        phases = [(pod["metadata"]["labels"]["finetune.dev/attempt"], pod["status"]["phase"]) for pod in self.pods(job)]
        return {int(attempt) if phase == "Failed" else 0 for attempt, phase in phases if phase != "Succeeded"}

    def leaves_nothing(self, *jobs: str) -> None:
        """Delete the jobs and wait until the namespace has the same objects as before."""
        self.kubectl.run("delete", "ftj", *jobs, "--timeout=30s")
        eventually(self.is_clear, lambda: self.everything() ^ self.before)

    def clear(self) -> None:
        """Prepare the namespace for the next test: the operator runs, and no job exists."""
        self.operator.start()
        if self.kubectl.run("delete", "ftj", "--all", "--ignore-not-found", "--timeout=30s").stdout:
            eventually(self.is_clear, lambda: self.everything() ^ self.before)


@contextlib.contextmanager
def slots(kubectl: Kubectl) -> Iterator[dict[str, Any]]:
    """Give each node one unit of a resource that nothing else requests, for the duration of the block.

    Yield `spec.resources` for a job of two nodes that uses one unit on each.
    """
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
    """Return the names of the nodes without taints."""
    return sorted(node["metadata"]["name"] for node in kubectl.get("nodes") if not node["spec"].get("taints"))


def true_conditions(status: dict[str, Any]) -> set[str]:
    """Return the types of the conditions that are true."""
    return {c["type"] for c in status.get("conditions", []) if c["status"] == "True"}


def message(status: dict[str, Any], kind: str = "Ready") -> str:
    """Return the message of a condition, or "" if it does not exist."""
    return next((str(c["message"]) for c in status.get("conditions", []) if c["type"] == kind), "")


def reason(status: dict[str, Any], kind: str = "Ready") -> str:
    """Return the reason of a condition, or "" if it does not exist."""
    return next((str(c["reason"]) for c in status.get("conditions", []) if c["type"] == kind), "")


def classes(status: dict[str, Any]) -> list[tuple[str, bool]]:
    """Return the class of each ledger entry, and whether it is counted."""
    return [(entry["class"], entry["counted"]) for entry in status.get("ledger", [])]


@contextlib.contextmanager
def operating(namespaces: Sequence[str], folder: Path, leads: bool = True) -> Iterator[Operator]:
    """Run an operator until the block ends; it is the leader, or ready, when the block begins.

    It must shut down regularly and log no traceback.
    """
    operator = Operator(namespaces, folder)
    try:
        operator.start(leads)
        yield operator
    finally:
        operator.stop()
        print(operator.log())
    assert "Traceback" not in operator.log()


def ground_in(kubectl: Kubectl, workspace: Path, operator: Operator) -> Ground:
    """Prepare the workspace and return the namespace before its first job."""
    lay_out_stand_in(workspace)
    for made_by_cluster in ("serviceaccount/default", "configmap/kube-root-ca.crt"):
        kubectl.run("wait", "--for=create", made_by_cluster, "--timeout=30s")
    ground = Ground(kubectl, workspace, operator)
    ground.before = ground.everything()
    return ground


def lay_out_stand_in(workspace: Path) -> None:
    """Copy the trainer's package, with stand-ins for the store and the rank, and what the agent imports."""
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
