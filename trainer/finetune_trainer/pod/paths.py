"""Maps URIs and the run's folders to paths in this pod."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer import contract
from finetune_trainer.contract import RunConfig


@dataclass(frozen=True)
class Paths:
    """The folders of this pod. The agent and the ranks get them from the environment."""

    workspace: Path
    claims: Path
    scratch: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Paths:
        """Read the folders from the environment, where the operator sets them all.

        Raises KeyError if a variable is missing.
        """
        return cls(
            workspace=Path(environment[contract.ENV_WORKSPACE]),
            claims=Path(environment[contract.ENV_CLAIMS]),
            scratch=Path(environment[contract.ENV_SCRATCH]),
        )

    def local(self, uri: str) -> Path | None:
        """Return the path that a URI names, or None for `hf://`, which names no path."""
        scheme, _, rest = uri.partition("://")
        match scheme:
            case "workspace":
                return self.workspace / rest
            case "pvc":
                return self.claims / rest
            case "file":
                return Path(rest)
        return None

    def run(self, config: RunConfig) -> Path:
        """Return the folder of the run."""
        return self.workspace / config.folder

    def output(self, config: RunConfig) -> Path:
        """Return the folder of the saved result."""
        return self.workspace / config.output
