"""The names of objects and folders that belong to a run or an attempt.

The UID is part of them, so that a job that is deleted and created again under its old name never uses the children of
its predecessor.
"""

from __future__ import annotations

import hashlib

from finetune_operator import constants


def child_name(job: str, uid: str, run: int, attempt: int) -> str:
    """Return the name of an attempt's ConfigMap, Service and Job.

    It has at most 57 characters if the job's name has 40.
    """
    return f"{job}-{_digits(uid, 5)}-{run}-{attempt}"


def look_name(child: str) -> str:
    """Return the name of an attempt's look Job; `child` is the name of the attempt's Job."""
    return f"{child}-look"


def policy_name(job: str, uid: str, content: str) -> str:
    """Return the name of a job's NetworkPolicy.

    Another content has another name, because children are never changed.
    """
    return f"{job}-{_digits(uid, 5)}-{hashlib.sha256(content.encode()).hexdigest()[:5]}"


def rendezvous_host(child: str, namespace: str) -> str:
    """Return the DNS name of rank 0's pod behind the headless Service."""
    return f"{child}-0.{child}.{namespace}.svc"


def run_folder(namespace: str, job: str, uid: str, run: int) -> str:
    """Return the folder in which a run writes, relative to the workspace.

    The attempts of a run share it, because each one resumes from the checkpoints of the previous ones. The pods of the
    previous attempt may still write; the trainer ensures that no two attempts write the same path.
    """
    return f"{namespace}/{job}/runs/{run}-{_digits(uid, 8)}"


def labels(job: str, run: int, attempt: int) -> dict[str, str]:
    """Return the labels of every child.

    The FineTuneJob's own labels are not copied, because they belong to the tool that applied it.
    """
    return {
        constants.LABEL_MANAGED_BY: constants.MANAGER,
        constants.LABEL_JOB: job,
        constants.LABEL_RUN: str(run),
        constants.LABEL_ATTEMPT: str(attempt),
    }


def _digits(uid: str, count: int) -> str:
    return uid.replace("-", "")[:count]
