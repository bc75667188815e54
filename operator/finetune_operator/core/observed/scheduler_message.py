"""Explains the scheduler's message about a pod that no node can take, and adds a remedy.

The scheduler of Kubernetes 1.28 to 1.36 writes how many nodes exist and, for each reason, how many of them it rules
out: `0/3 nodes are available: 1 node(s) had untolerated taint {gpu: }, 2 Insufficient cpu.` A sentence about preemption
may follow. A reason that concerns the pod alone, such as a missing claim, has no number. The reasons are those of
pkg/scheduler/framework/plugins in kubernetes/kubernetes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MESSAGE = re.compile(r"0/(\d+) nodes are available: (.+?)\.*(?:\s+(?:no new claims to deallocate, )?preemption: .*)?$")
_COUNTED = re.compile(r"(\d+) (.+)")


class _Kind(NamedTuple):
    """A reason for which the scheduler rules out nodes."""

    pattern: re.Pattern[str]
    sentence: str
    """What the nodes have or lack; `{}` stands for the text that the pattern's group matched."""
    remedy: str


def _kind(pattern: str, sentence: str, remedy: str) -> _Kind:
    return _Kind(re.compile(pattern), sentence, remedy)


_OF_NODES = (
    _kind("Insufficient cpu$", "with too little free cpu", "lower resources.cpu, add nodes or wait"),
    _kind("Insufficient memory$", "with too little free memory", "lower resources.memory, add nodes or wait"),
    _kind(
        "Insufficient ephemeral-storage$",
        "with too little free disk space",
        "lower resources.scratch, free disk space on the nodes, add nodes or wait",
    ),
    _kind(
        r"Insufficient (\S+)$",
        "without enough free {}",
        "lower resources.gpusPerNode, correct resources.gpuResource, add nodes or wait",
    ),
    _kind("Too many pods$", "with as many pods as it can have", "add nodes or wait"),
    _kind(
        r"node\(s\) had (?:untolerated )?taint(?: (\{[^}]*\})|\(s\)|s)",
        "with a taint {}that the pods do not tolerate",
        "add it to podTemplate.tolerations, if the job may run there",
    ),
    _kind(
        r"node\(s\) didn't match (?:Pod's node affinity/selector|node selector|Pod's node affinity)",
        "that podTemplate.nodeSelector or podTemplate.affinity rules out",
        "correct those, or label a node",
    ),
    _kind(
        r"node\(s\) didn't (?:match pod (?:anti-)?affinity rules|satisfy existing pods anti-affinity rules)",
        "ruled out by affinity to other pods",
        "correct podTemplate.affinity, or move those pods",
    ),
    _kind(r"node\(s\) were unschedulable$", "that is cordoned", "uncordon it (kubectl uncordon) or wait"),
    _kind(
        r"node\(s\) (?:had volume node affinity conflict|didn't match PersistentVolume's node affinity"
        r"|had no available volume zone)",
        "from which a claim's volume cannot be reached",
        "let podTemplate name nodes in the volume's zone, or use another storage.claimName",
    ),
    _kind(
        r"node\(s\) (?:didn't find available persistent volumes to bind|did not have enough free storage)",
        "for which the claim finds no volume",
        "make a volume or correct the claim's storage class",
    ),
    _kind(r"node\(s\) exceed max volume count$", "with as many volumes as it can have", "add nodes or wait"),
    _kind(
        r"node\(s\) unavailable due to PersistentVolumeClaim with ReadWriteOncePod",
        "that must wait for another pod to let go of the claim",
        "stop that pod, or use another storage.claimName",
    ),
)
_OF_THE_POD = (
    _kind(
        r'persistentvolumeclaim "([^"]*)" not found',
        "claim {} does not exist",
        "make it in the job's namespace, or name another one in storage.claimName",
    ),
    _kind(
        "pod has unbound immediate PersistentVolumeClaims",
        "a claim of the job has no volume yet",
        "look at it with kubectl describe pvc, and correct its storage class or size",
    ),
)


def explained(message: str) -> str | None:
    """Return a scheduler's message in plain words with remedies; None if a part of it is not known."""
    if message.startswith("no nodes available to schedule pods"):
        return "the cluster has no node that is ready; add one or wait"
    found = _MESSAGE.match(message)
    if found is None:
        return None
    total, reasons = int(found[1]), found[2]
    for kind in _OF_THE_POD:
        if of_pod := kind.pattern.match(reasons):
            return f"{kind.sentence.format(*of_pod.groups())}; {kind.remedy}"
    told: dict[str, int] = {}
    remedies: dict[str, None] = {}
    for reason in re.split(r", (?=\d+ )", reasons):
        counted = _COUNTED.fullmatch(reason)
        known = _known(counted[2]) if counted else None
        if counted is None or known is None:
            return None
        kind, what = known
        told[what] = told.get(what, 0) + int(counted[1])
        remedies[kind.remedy] = None
    places = ", ".join(f"{count} of {total} {what}" for what, count in told.items())
    return f"no node can take it: {places}; {'; '.join(remedies)}"


def _known(reason: str) -> tuple[_Kind, str] | None:
    """Return the kind of a reason, and its sentence about the nodes."""
    for kind in _OF_NODES:
        if found := kind.pattern.match(reason):
            named = [group for group in found.groups() if group]
            taint = f"{named[0]} " if named and "taint" in kind.sentence else ""
            return kind, kind.sentence.format(taint or (named[0] if named else ""))
    return None
