"""Reads from the condition of a failed Job how the pod that failed first ended.

The Job of an attempt has a podFailurePolicy (`manifests/job.py`). When one of its rules matches, the Job controller
writes the pod and its exit code, or the fact that the cluster took the pod away, into the Job's condition. That
condition stays when all pods are gone, for example because they were evicted while no operator ran.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BY_RULE = re.compile(r"\bmatching FailJob rule\b")
_EXIT_CODE = re.compile(r"\bexit code ([0-9]{1,3})\b")
_DISRUPTED = re.compile(r"\bcondition DisruptionTarget\b")
_POD = re.compile(r"\bpod (?:[a-z0-9.-]{1,63}/)?([a-z0-9][a-z0-9.-]{0,252})", re.IGNORECASE)


@dataclass(frozen=True)
class JobVerdict:
    """How the pod that failed first ended, according to the Job's condition."""

    exit_code: int | None
    """The exit code of the trainer's container; None if the cluster took the pod away."""
    pod: str


def job_verdict(message: str) -> JobVerdict | None:
    """Parse the message of a Job's FailureTarget or Failed condition; return None if no rule matched.

    The Job controller writes such messages (pkg/controller/job/pod_failure_policy.go of Kubernetes 1.26 to 1.36):
    `Container trainer for pod default/a-0-x failed with exit code 76 matching FailJob rule at index 0`, and `Pod
    default/a-0-x has condition DisruptionTarget matching FailJob rule at index 1`.
    """
    pod, code = _POD.search(message), _EXIT_CODE.search(message)
    if pod is None or not _BY_RULE.search(message):
        return None
    if code:
        return JobVerdict(int(code[1]), pod[1])
    return JobVerdict(None, pod[1]) if _DISRUPTED.search(message) else None
