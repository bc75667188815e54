"""Functions that read the state of a pod, and that write it as a kubelet and a scheduler do.

Each `set_` function changes an object in place, for `PodHost.update_pod`. Times are seconds since the epoch.
"""

from __future__ import annotations

from finetune_operator.local.clock import timestamp
from finetune_operator.protocol import Object

MAX_TERMINATION_MESSAGE_BYTES = 4096
DEFAULT_GRACE_SECONDS = 30.0
SIGKILL_EXIT_CODE = 137
SIGTERM_EXIT_CODE = 143


def phase(pod: Object) -> str:
    """Return the phase of a pod: Pending, Running, Succeeded or Failed."""
    return str(pod.get("status", {}).get("phase", "Pending"))


def is_finished(pod: Object) -> bool:
    """Return whether the pod has ended, by itself or because it was stopped; such a pod never runs again."""
    return phase(pod) in ("Succeeded", "Failed")


def is_terminating(pod: Object) -> bool:
    """Return whether the deletion of the pod was requested."""
    return "deletionTimestamp" in pod["metadata"]


def is_ready(pod: Object) -> bool:
    """Return whether the Ready condition is True."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def grace_seconds(pod: Object) -> float:
    """Return the seconds within which the pod's processes must end after SIGTERM."""
    seconds = pod["spec"].get("terminationGracePeriodSeconds")
    return DEFAULT_GRACE_SECONDS if seconds is None else float(seconds)


def controller_uid(pod: Object) -> str | None:
    """Return the UID of the owner that controls the pod."""
    owners = pod["metadata"].get("ownerReferences", [])
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def set_condition(target: Object, kind: str, status: str, now: float, reason: str = "", message: str = "") -> None:
    """Set one condition in the status of a pod or a Job; the transition time changes only with its status."""
    conditions = target.setdefault("status", {}).setdefault("conditions", [])
    old = next((c for c in conditions if c["type"] == kind), None)
    new = {"type": kind, "status": status}
    new |= {"reason": reason} if reason else {}
    new |= {"message": message} if message else {}
    if old is None:
        conditions.append({**new, "lastTransitionTime": timestamp(now)})
        return
    moved = old["status"] != status
    conditions[conditions.index(old)] = {
        **new,
        "lastTransitionTime": timestamp(now) if moved else old["lastTransitionTime"],
    }


def _set_container(pod: Object, state: Object, ready: bool) -> None:
    container = pod["spec"]["containers"][0]
    pod["status"]["containerStatuses"] = [
        {
            "name": container["name"],
            "image": container.get("image", ""),
            "ready": ready,
            "started": "running" in state,
            "restartCount": 0,
            "state": state,
        }
    ]


def _container_state(pod: Object) -> Object:
    statuses = pod["status"].get("containerStatuses", [])
    state: Object = statuses[0]["state"] if statuses else {}
    return state


def set_unschedulable(pod: Object, message: str, now: float) -> None:
    """Record that no node has room for the pod."""
    set_condition(pod, "PodScheduled", "False", now, "Unschedulable", message)


def set_scheduled(pod: Object, node: str, now: float) -> None:
    """Record the node of the pod."""
    pod["spec"]["nodeName"] = node
    set_condition(pod, "PodScheduled", "True", now)


def set_waiting(pod: Object, reason: str, message: str, now: float) -> None:
    """Record that the pod has a node, but that its container cannot start yet."""
    set_condition(pod, "Ready", "False", now, "ContainersNotReady")
    _set_container(pod, {"waiting": {"reason": reason, "message": message}}, ready=False)


def set_running(pod: Object, ip: str, now: float) -> None:
    """Record that the container runs and, without a readiness probe, is ready."""
    pod["status"] |= {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": timestamp(now)}
    set_condition(pod, "Ready", "True", now)
    set_condition(pod, "ContainersReady", "True", now)
    _set_container(pod, {"running": {"startedAt": timestamp(now)}}, ready=True)


def set_finished(pod: Object, exit_code: int, message: str, now: float, reason: str | None = None) -> None:
    """Record that the container ended; `reason` is the one that a kubelet reports, for example OOMKilled."""
    succeeded = exit_code == 0
    running = _container_state(pod).get("running", {})
    terminated = {
        "exitCode": exit_code,
        "reason": reason or ("Completed" if succeeded else "Error"),
        "startedAt": running.get("startedAt", timestamp(now)),
        "finishedAt": timestamp(now),
    }
    if message:
        terminated["message"] = message.encode()[:MAX_TERMINATION_MESSAGE_BYTES].decode(errors="ignore")
    pod["status"]["phase"] = "Succeeded" if succeeded else "Failed"
    for ready in ("Ready", "ContainersReady"):
        set_condition(pod, ready, "False", now, "PodCompleted" if succeeded else "PodFailed")
    _set_container(pod, {"terminated": terminated}, ready=False)


def set_rejected(pod: Object, reason: str, message: str, now: float) -> None:
    """Record that the node refused the pod before any container started."""
    pod["status"] |= {"phase": "Failed", "reason": reason, "message": message}
    set_condition(pod, "Ready", "False", now, "PodFailed")


def set_disrupted(pod: Object, reason: str, message: str, now: float) -> None:
    """Record that the cluster, not the program, is about to end the pod."""
    set_condition(pod, "DisruptionTarget", "True", now, reason, message)
