"""A PersistentVolumeClaim, as far as decisions need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_operator.core.observed.foreign import fields, text


@dataclass(frozen=True)
class ClaimView:
    """A claim that exists."""

    modes: tuple[str, ...]
    """Access modes."""
    lost: bool = False
    """Its volume is gone, so that no pod can mount it any more."""
    deleted: bool = False
    """It goes as soon as no pod uses it, and no new pod is let in."""

    @classmethod
    def of(cls, claim: Mapping[str, Any]) -> ClaimView:
        """Return the view of the API's object. A claim that is not bound yet is as good as one that is: most storage
        classes bind it when its first pod has a node, and the scheduler says why another one is not bound."""
        modes = fields(claim.get("spec")).get("accessModes")
        return cls(
            modes=tuple(mode for mode in modes if isinstance(mode, str)) if isinstance(modes, list) else (),
            lost=text(fields(claim.get("status")).get("phase")) == "Lost",
            deleted="deletionTimestamp" in fields(claim.get("metadata")),
        )


Claims = Mapping[str, ClaimView | None]
"""By name the claims that an attempt mounts; None for one that does not exist."""
