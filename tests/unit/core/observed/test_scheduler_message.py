"""Messages of schedulers of Kubernetes 1.28 to 1.36 about pods that no node can take, and what users read."""

from __future__ import annotations

import pytest

from finetune_operator.core.observed.scheduler_message import explained
from finetune_operator.core.observed.views import PodView

GPUS = "lower resources.gpusPerNode, correct resources.gpuResource, add nodes or wait"
CPU = "lower resources.cpu, add nodes or wait"
MEMORY = "lower resources.memory, add nodes or wait"
TAINT = "add it to podTemplate.tolerations, if the job may run there"
SELECTOR = "that podTemplate.nodeSelector or podTemplate.affinity rules out"
LABEL = "correct those, or label a node"
ZONE = "let podTemplate name nodes in the volume's zone, or use another storage.claimName"
USELESS, NOBODY = "Preemption is not helpful for scheduling", "No preemption victims found for incoming pod"
CLAIM = "claim finetune does not exist; make it in the job's namespace, or name another one in storage.claimName"
MESSAGES = [
    (
        f"0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 {NOBODY}.",
        f"no node can take it: 3 of 3 without enough free nvidia.com/gpu; {GPUS}",
    ),
    (
        f"0/1 nodes are available: 1 Insufficient amd.com/gpu. preemption: 0/1 nodes are available: 1 {NOBODY}..",
        f"no node can take it: 1 of 1 without enough free amd.com/gpu; {GPUS}",
    ),
    (
        "0/7 nodes are available: 1 node(s) had untolerated taint(s), 6 Insufficient cpu. no new claims to deallocate, "
        f"preemption: 0/7 nodes are available: 1 {USELESS}, 6 {NOBODY}.",
        "no node can take it: 1 of 7 with a taint that the pods do not tolerate, 6 of 7 with too little free cpu; "
        f"{TAINT}; {CPU}",
    ),
    (
        "0/4 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, "
        f"3 Insufficient memory. preemption: 0/4 nodes are available: 1 {USELESS}, 3 {NOBODY}.",
        "no node can take it: 1 of 4 with a taint {node-role.kubernetes.io/control-plane: } that the pods do not "
        f"tolerate, 3 of 4 with too little free memory; {TAINT}; {MEMORY}",
    ),
    (
        "0/6 nodes are available: 1 node(s) had volume node affinity conflict, 2 node(s) didn't match Pod's node "
        "affinity/selector, 3 node(s) had taint {node-role.kubernetes.io/master: }, that the pod didn't tolerate.",
        f"no node can take it: 1 of 6 from which a claim's volume cannot be reached, 2 of 6 {SELECTOR}, 3 of 6 with a "
        f"taint {{node-role.kubernetes.io/master: }} that the pods do not tolerate; {ZONE}; {LABEL}; {TAINT}",
    ),
    (
        "0/3 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 2 Insufficient cpu, 2 "
        f"Insufficient memory. preemption: 0/3 nodes are available: 1 {USELESS}, 2 {NOBODY}.",
        "no node can take it: 1 of 3 from which a claim's volume cannot be reached, 2 of 3 with too little free cpu, "
        f"2 of 3 with too little free memory; {ZONE}; {CPU}; {MEMORY}",
    ),
    (
        "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match pod anti-affinity rules. "
        f"preemption: 0/3 nodes are available: 1 {USELESS}, 2 {NOBODY}.",
        "no node can take it: 1 of 3 that is cordoned, 2 of 3 ruled out by affinity to other pods; uncordon it "
        "(kubectl uncordon) or wait; correct podTemplate.affinity, or move those pods",
    ),
    (
        "0/3 nodes are available: 1 node(s) didn't find available persistent volumes to bind, 2 Too many pods. "
        f"preemption: 0/3 nodes are available: 1 {USELESS}, 2 {NOBODY}.",
        "no node can take it: 1 of 3 for which the claim finds no volume, 2 of 3 with as many pods as it can have; "
        "make a volume or correct the claim's storage class; add nodes or wait",
    ),
    (
        '0/3 nodes are available: persistentvolumeclaim "finetune" not found. preemption: 0/3 nodes are available: '
        f"3 {USELESS}.",
        CLAIM,
    ),
    ('0/1 nodes are available: persistentvolumeclaim "finetune" not found. not found', CLAIM),
    (
        "0/4 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/4 nodes are "
        f"available: 4 {USELESS}..",
        "a claim of the job has no volume yet; look at it with kubectl describe pvc, and correct its storage class or "
        "size",
    ),
    ("no nodes available to schedule pods", "the cluster has no node that is ready; add one or wait"),
]


@pytest.mark.parametrize(("message", "sentence"), MESSAGES, ids=lambda text: text[:60])
def test_a_message_of_the_scheduler_becomes_a_sentence_with_its_remedies(message: str, sentence: str) -> None:
    assert explained(message) == sentence


@pytest.mark.parametrize(
    "message",
    [
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) have something that this operator does not know.",
        "0/2 nodes are available",
        "Pod is in the queue of another scheduler",
        "",
    ],
)
def test_what_is_not_understood_is_not_explained(message: str) -> None:
    assert explained(message) is None


def waiting(message: str) -> str | None:
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return PodView.of({"metadata": {}, "spec": {}, "status": {"conditions": [scheduled]}}).waiting


def test_a_pod_waits_for_what_the_sentence_says_and_else_for_the_scheduler_s_own_words_cut() -> None:
    known, sentence = MESSAGES[0]
    assert waiting(known) == sentence
    assert waiting("in another's queue") == "in another's queue"
    assert len(waiting("x" * 5000) or "") == 512
