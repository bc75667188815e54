"""Names of what belongs to a run or an attempt.

The UID is part of them: a job that is deleted and made again under its old name never meets its predecessor's children.
"""

from __future__ import annotations

import hashlib

from finetune_operator import constants


def child_name(job: str, uid: str, run: int, attempt: int) -> str:
    """Of an attempt's ConfigMap, Service and Job: at most 57 characters for a job's name of 40."""
    return f"{job}-{_digits(uid, 5)}-{run}-{attempt}"


def look_name(child: str) -> str:
    """The name of the Job that reads an attempt's result from the workspace; `child` is that of the attempt's Job."""
    return f"{child}-look"


def policy_name(job: str, uid: str, content: str) -> str:
    """Of a job's NetworkPolicy: another content has another name, as children are never changed."""
    return f"{job}-{_digits(uid, 5)}-{hashlib.sha256(content.encode()).hexdigest()[:5]}"


def rendezvous_host(child: str, namespace: str) -> str:
    """The DNS name of rank 0's pod, behind the headless Service."""
    return f"{child}-0.{child}.{namespace}.svc"


def run_folder(namespace: str, job: str, uid: str, run: int) -> str:
    """Where a run writes, relative to the workspace. Its attempts share it, for each resumes from the checkpoints of
    those before; that no two of them write one path, as the pods of the one before may write on, is the trainer's."""
    return f"{namespace}/{job}/runs/{run}-{_digits(uid, 8)}"


def labels(job: str, run: int, attempt: int) -> dict[str, str]:
    """Of every child. The parent's own labels are not copied: they belong to the tool that applied it."""
    return {
        constants.LABEL_MANAGED_BY: constants.MANAGER,
        constants.LABEL_JOB: job,
        constants.LABEL_RUN: str(run),
        constants.LABEL_ATTEMPT: str(attempt),
    }


def _digits(uid: str, count: int) -> str:
    return uid.replace("-", "")[:count]
