"""Which events queue a job's key for a reconcile, and with which delay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.clusters import NOW
from support.jobs import job

from finetune_operator.local import pods
from finetune_operator.protocol import CONFIGMAPS, FINETUNEJOBS, JOBS, NETWORKPOLICIES, PODS, SERVICES, Object
from finetune_operator.runtime.intake import SOON, Intake
from finetune_operator.runtime.job_memory import Children, JobMemories, Key

KEY = Key("default", "clauses")


class Woken:
    """A queue that only records what is added."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def add(self, key: Key, first: bool = False) -> None:
        assert key == KEY
        self.calls.append(0)

    def add_after(self, key: Key, delay: float) -> None:
        assert key == KEY
        self.calls.append(delay)


def woken(resource: Any, *bodies: Object, gone: bool = False, job: Object | None = None) -> list[float]:
    """Return the delays with which the last of these events queued the key. `job` was observed before."""
    queue = Woken()
    intake = Intake(queue, JobMemories())  # type: ignore[arg-type]
    if job:
        intake.saw(JOBS, job)
    for body in bodies[:-1]:
        intake.saw(resource, body)
    queue.calls.clear()
    intake.saw(resource, bodies[-1], gone=gone)
    return queue.calls


def a_pod(*changes: Callable[[Object], None]) -> Object:
    metadata = {"name": "p", "namespace": "default", "uid": "u", "labels": {"finetune.dev/job": "clauses"}}
    pod: Object = {"metadata": metadata, "spec": {"containers": [{"name": "trainer"}]}, "status": {"phase": "Pending"}}
    for change in changes:
        change(pod)
    return pod


def a_finetunejob(generation: int = 1, **status: Any) -> Object:
    metadata = {"name": "clauses", "namespace": "default", "uid": "f", "generation": generation}
    return {"metadata": metadata, "status": status}


def a_job(**status: Any) -> Object:
    made = job("clauses-1", "default")
    made["metadata"] |= {
        "uid": "j", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"finetune.dev/job": "clauses"},
    }  # fmt: skip
    return {**made, "status": status}


def of_the_job(uid: str) -> Callable[[Object], None]:
    def change(pod: Object) -> None:
        pod["metadata"] |= {"uid": uid, "ownerReferences": [{"kind": "Job", "uid": "j", "controller": True}]}

    return change


def marked(pod: Object, **metadata: Any) -> Object:
    return {**pod, "metadata": {**pod["metadata"], **metadata}}


def scheduled(pod: Object) -> None:
    pods.set_scheduled(pod, "n1", 1.0)


def running(pod: Object) -> None:
    pods.set_running(pod, "10.0.0.1", 2.0)


def test_the_last_pod_of_a_gang_that_starts_wakes_at_once() -> None:
    first, second = (a_pod(of_the_job(uid), scheduled, running) for uid in ("u0", "u1"))
    assert woken(PODS, first, second, job=a_job()) == [0]
    assert woken(PODS, first, job=a_job()) == [], "the next look tells how many run"
    assert woken(PODS, marked(first, deletionTimestamp="2026-01-01T00:00:00Z"), second, job=a_job()) == []
    assert woken(PODS, first) == [0], "nobody knows how many there will be"


def test_pods_that_cannot_be_scheduled_are_looked_at_together() -> None:
    assert woken(PODS, a_pod(), a_pod(lambda pod: pods.set_unschedulable(pod, "no room", 1.0))) == [SOON]


def test_a_pod_that_ends_or_is_taken_wakes_at_once() -> None:
    for ending in (
        lambda pod: pods.set_finished(pod, 1, "", 2.0),
        lambda pod: pods.set_disrupted(pod, "Evicted", "", 2.0),
        lambda pod: pod["metadata"].update({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
    ):
        assert woken(PODS, a_pod(scheduled), a_pod(scheduled, ending)) == [0]
    assert woken(PODS, a_pod(scheduled), a_pod(scheduled), gone=True) == [0]


def test_what_changes_nothing_that_is_decided_on_wakes_nobody() -> None:
    assert woken(PODS, a_pod(), a_pod(scheduled)) == []
    assert woken(PODS, a_pod(scheduled, running), a_pod(scheduled, running)) == []
    assert woken(JOBS, a_job(), a_job(active=2, ready=1)) == []
    assert woken(FINETUNEJOBS, a_finetunejob(), a_finetunejob(phase="Training")) == []
    assert woken(JOBS, a_job()) == [], "who made it looks at it in a while"


def test_an_edit_a_failed_job_and_a_deletion_wake_at_once() -> None:
    failed = {"type": "FailureTarget", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    assert woken(FINETUNEJOBS, a_finetunejob()) == [0]
    assert woken(FINETUNEJOBS, a_finetunejob(), a_finetunejob(2)) == [0]
    assert woken(FINETUNEJOBS, a_finetunejob(), a_finetunejob(), gone=True) == [0]
    assert woken(JOBS, a_job(), a_job(conditions=[failed])) == [0]
    assert woken(JOBS, a_job(conditions=[failed])) == [0]
    assert woken(JOBS, a_job(), a_job(), gone=True) == [0]


def test_how_an_attempt_ends_that_another_has_followed_wakes_nobody() -> None:
    queue, memories = Woken(), JobMemories()
    intake = Intake(queue, memories)  # type: ignore[arg-type]
    memories.of(KEY).followed.add("j")
    intake.saw(PODS, a_pod(of_the_job("u0"), scheduled, lambda pod: pods.set_finished(pod, 1, "", 2.0)))
    intake.saw(JOBS, a_job(), gone=True)
    assert queue.calls == []
    assert memories.pod("u0") is None


def test_of_other_children_only_the_loss_of_one_that_the_attempt_had_wakes() -> None:
    queue, memories = Woken(), JobMemories()
    intake = Intake(queue, memories)  # type: ignore[arg-type]
    child = {"metadata": {"name": "c", "namespace": "default", "uid": "c", "labels": {"finetune.dev/job": "clauses"}}}
    intake.saw(SERVICES, child, gone=True)
    assert queue.calls == [], "nothing is known of an attempt"
    memories.of(KEY).children = Children(NOW, frozenset({("Service", "c"), ("ConfigMap", "other")}))
    intake.saw(SERVICES, child)
    intake.saw(CONFIGMAPS, child, gone=True)
    assert queue.calls == [], "one that was added, and one of an attempt before"
    intake.saw(SERVICES, child, gone=True)
    assert queue.calls == [0]
    assert memories.find(KEY).children is None, "they are looked up again"


def test_network_policies_are_watched_only_where_they_are_made() -> None:
    queue, memories = Woken(), JobMemories()
    watched = Intake(queue, memories, policies=False).watched  # type: ignore[arg-type]
    assert watched == (FINETUNEJOBS, JOBS, PODS, CONFIGMAPS, SERVICES)
    assert NETWORKPOLICIES in Intake(queue, memories).watched  # type: ignore[arg-type]
