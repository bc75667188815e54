"""A claim that one node mounts at a time: the next attempt waits until the pods of earlier ones have let go of it.

Its pods would otherwise hang on another node in ContainerCreating, and count as a failed start. On a claim that several
nodes can mount nothing is waited for: a dead node's pod holds nothing up.
"""

from __future__ import annotations

from collections.abc import Iterable

from finetune_operator.core.observed.views import PodView

SHARED = "ReadWriteMany"


def is_shared(modes: Iterable[str] | None) -> bool:
    """Whether several nodes can mount a claim of these access modes; a claim that was not found is not judged."""
    return modes is None or SHARED in modes


def holder(remaining: Iterable[PodView], modes: Iterable[str] | None) -> PodView | None:
    """The pod that keeps the claim from the next attempt. One without a node holds nothing."""
    if is_shared(modes):
        return None
    return next((pod for pod in remaining if pod.scheduled), None)
