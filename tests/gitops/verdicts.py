"""The health that a user expects of each recorded FineTuneJob."""

from __future__ import annotations

from typing import NamedTuple

from support.health import argo, flux, kstatus

from finetune_operator.protocol import Object


class Verdict(NamedTuple):
    """The health that each of the three tools reports."""

    kstatus: str
    argo: str
    flux: str


WORKING = Verdict("InProgress", "Progressing", "InProgress")
DONE = Verdict("Current", "Healthy", "Current")
STUCK = Verdict("Failed", "Degraded", "Failed")
PAUSED = Verdict("InProgress", "Suspended", "InProgress")
"""A state that only Argo CD knows."""
GOING = Verdict("Terminating", "Progressing", "InProgress")
VERDICTS = {
    "created": WORKING,
    "pending": WORKING,
    "unschedulable": WORKING,
    "pods-refused": WORKING,
    "queued": WORKING,
    "image-not-pulled": WORKING,
    "container-not-created": WORKING,
    "starting": WORKING,
    "pods-running": WORKING,
    "training": WORKING,
    "diverging": WORKING,
    "checkpoint-failing": WORKING,
    "straggling": WORKING,
    "exporting": WORKING,
    "reading-result": WORKING,
    "complete": DONE,
    "failed": STUCK,
    "restarting": WORKING,
    "second-attempt": WORKING,
    "volume-attached-elsewhere": WORKING,
    "failed-after-restarts": STUCK,
    "failed-by-deadline": STUCK,
    "diverged": STUCK,
    "retried": WORKING,
    "replaced": WORKING,
    "suspending": WORKING,
    "suspended": PAUSED,
    "suspended-from-the-beginning": PAUSED,
    "suspended-when-complete": DONE,
    "resumed": WORKING,
    "complete-after-its-time": DONE,
    "invalid-spec": STUCK,
    "invalid-status": STUCK,
    "name-conflict": STUCK,
    "claim-not-found": WORKING,
    "claim-being-deleted": WORKING,
    "claim-lost": STUCK,
    "volume-not-shared": STUCK,
    "refused": STUCK,
    "edited-while-training": WORKING,
    "edited-when-complete": WORKING,
    "edited-to-the-same-recipe": DONE,
    "edited-to-an-invalid-spec": STUCK,
    "second-run": WORKING,
    "deleted": GOING,
}


def verdict_of(obj: Object) -> Verdict:
    """Return the health that the three tools report. Raises CelError where Flux would wait."""
    return Verdict(kstatus(obj), argo(obj).status, flux(obj))
