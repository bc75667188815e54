"""The views of pods and Jobs as the API returns them."""

from typing import Any

from finetune_operator.core.attempt.cause import cause_of
from finetune_operator.core.observed.views import JobView, PodView


def api_pod(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "p",
            "uid": "u",
            "labels": {"batch.kubernetes.io/job-completion-index": "3"},
            "ownerReferences": [{"uid": "j", "controller": True}],
        },
        "spec": {"nodeName": "n"},
        "status": status,
    }


def terminated(**state: Any) -> dict[str, Any]:
    return {"phase": "Failed", "containerStatuses": [{"name": "trainer", "state": {"terminated": state}}]}


def test_the_end_of_a_container_is_read() -> None:
    view = PodView.of(
        api_pod(**terminated(exitCode=137, reason="OOMKilled", finishedAt="2026-01-01T00:00:00Z", message="{"))
    )
    assert (view.index, view.owner_uid, view.exit_code, view.reason, view.message) == (3, "j", 137, "OOMKilled", None)
    assert view.failed


def test_a_pod_evicted_by_its_node_has_failed_without_an_exit_code() -> None:
    view = PodView.of(api_pod(phase="Failed", reason="Evicted", message="The node was low on memory"))
    assert (view.failed, view.exit_code, view.reason) == (True, None, "Evicted")


def test_what_a_pod_took_too_much_of_is_kept_when_it_is_gone() -> None:
    message = 'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". '
    ended = {"containerStatuses": [{"name": "trainer", "state": {"terminated": {"exitCode": 137, "reason": "Error"}}}]}
    evicted = PodView.of(api_pod(phase="Failed", reason="Evicted", message=message, **ended))
    assert evicted.excess == "wrote more than 1Gi to its node's disk; raise resources.scratch"
    assert PodView.of(api_pod(phase="Failed", **ended)).after(evicted).excess == evicted.excess


def test_another_container_s_end_is_not_the_trainer_s() -> None:
    status = {"containerStatuses": [{"name": "sidecar", "state": {"terminated": {"exitCode": 1}}}]}
    assert PodView.of(api_pod(**status)).exit_code is None


def test_when_deletion_was_asked_for_is_its_timestamp_less_the_grace_period() -> None:
    pod = api_pod()
    pod["metadata"] |= {"deletionTimestamp": "2026-01-01T00:05:00Z", "deletionGracePeriodSeconds": 300}
    deleted = PodView.of(pod).deleted
    assert deleted is not None
    assert deleted.isoformat() == "2026-01-01T00:00:00+00:00"


def test_the_first_deletion_counts_and_not_the_kubelet_s_own_that_follows() -> None:
    asked, ended = api_pod(), api_pod()
    deletion = {"deletionTimestamp": "2026-01-01T00:05:00Z", "deletionGracePeriodSeconds": 300, "resourceVersion": "41"}
    asked["metadata"] |= deletion
    again = {"deletionTimestamp": "2026-01-01T00:00:02Z", "deletionGracePeriodSeconds": 0, "resourceVersion": "47"}
    ended["metadata"] |= again
    first = PodView.of(asked)
    last = PodView.of(ended).after(first)
    assert (last.deleted, last.deletion_version) == (first.deleted, 41)


def test_terminal_facts_stay_when_a_later_view_lacks_them() -> None:
    ended = PodView.of(api_pod(**terminated(exitCode=76, reason="Error")))
    later = PodView.of(api_pod(phase="Failed")).after(ended)
    assert (later.exit_code, later.reason) == (76, "Error")


def test_an_image_that_cannot_be_pulled_is_told_and_a_container_that_is_being_created_is_not() -> None:
    pulling = {
        "containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}]
    }
    creating = {"containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "ContainerCreating"}}}]}
    assert PodView.of(api_pod(**pulling)).waiting == "ErrImagePull: no"
    assert PodView.of(api_pod(**creating)).waiting is None


def test_completed_indexes_and_the_first_sign_of_failure_are_read() -> None:
    view = JobView.of(
        {
            "metadata": {"name": "j", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"parallelism": 5},
            "status": {
                "completedIndexes": "0-2,4",
                "conditions": [
                    {"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:02:00Z"},
                    {"type": "FailureTarget", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"},
                ],
            },
        }
    )
    assert view.succeeded == {0, 1, 2, 4}
    assert view.failure is not None
    assert view.failure.minute == 1


def test_an_init_container_that_cannot_start_or_fails_is_told() -> None:
    pulling = {
        "initContainerStatuses": [{"name": "copy", "state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}]
    }
    assert PodView.of(api_pod(**pulling)).waiting == "ErrImagePull: no"
    ended = {"phase": "Failed", "initContainerStatuses": [{"name": "copy", "state": {"terminated": {"exitCode": 3}}}]}
    view = PodView.of(api_pod(**ended))
    assert (view.failed, view.exit_code, view.reason) == (True, None, "init container copy ended with exit code 3")
    assert cause_of(None, [view]).message == "pod p failed: init container copy ended with exit code 3"


def test_a_pod_that_ran_does_not_wait_again_whatever_is_told_late() -> None:
    running = PodView("u", "p", 0, "j", ip="10.0.0.1", phase="Running", running=True)
    late = PodView("u", "p", 0, "j", phase="Pending", present=False)
    told = late.after(running)
    assert (told.running, told.ip, told.present) == (True, "10.0.0.1", False)


def test_a_pod_holds_its_node_until_all_of_its_containers_have_ended() -> None:
    sidecar_runs = PodView("u", "p", 0, "j", phase="Running", exit_code=1)
    assert not sidecar_runs.ended_or_gone
    assert PodView("u", "p", 0, "j", phase="Failed").ended_or_gone
    assert PodView("u", "p", 0, "j", phase="Running", present=False).ended_or_gone


def test_a_pod_at_its_nodes_address_has_none_to_be_dialled_at() -> None:
    assert PodView.of(api_pod(podIP="10.0.0.1", hostIP="192.0.2.1")).ip == "10.0.0.1"
    assert PodView.of(api_pod(podIP="192.0.2.1", hostIP="192.0.2.1")).ip is None
    shared = api_pod(podIP="10.0.0.1", hostIP="192.0.2.1")
    shared["spec"]["hostNetwork"] = True
    assert PodView.of(shared).ip is None
