"""The view of a PersistentVolumeClaim, reduced to what decisions need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_operator.core.observed.foreign import fields, text


@dataclass(frozen=True)
class ClaimView:
    """A claim that exists."""

    modes: tuple[str, ...]
    """The access modes of the claim."""
    lost: bool = False
    """Whether the claim's volume is lost, so that no pod can mount it any more."""
    deleted: bool = False
    """Whether the claim is being deleted: it goes once no pod uses it, and no new pod may use it."""

    @classmethod
    def of(cls, claim: Mapping[str, Any]) -> ClaimView:
        """Return the view of the API's object.

        A claim that is not bound yet counts like a bound one: most storage classes bind it when its first pod has a
        node, and the scheduler reports why another claim is not bound.
        """
        modes = fields(claim.get("spec")).get("accessModes")
        return cls(
            modes=tuple(mode for mode in modes if isinstance(mode, str)) if isinstance(modes, list) else (),
            lost=text(fields(claim.get("status")).get("phase")) == "Lost",
            deleted="deletionTimestamp" in fields(claim.get("metadata")),
        )


Claims = Mapping[str, ClaimView | None]
"""The claims that an attempt mounts, by name; None for a claim that does not exist."""
