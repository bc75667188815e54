"""FineTuneJobs in every phase, recorded by `make record` and read by the tests of their health.

`memory` has those of the in-memory cluster, `cluster` those of a real cluster with real pods.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml

from finetune_operator.protocol import Object

FOLDER = Path(__file__).parent / "recorded"
Source = Literal["memory", "cluster"]


def recorded(source: Source) -> dict[str, Object]:
    """Return the recorded objects, by scene."""
    files = sorted((FOLDER / source).glob("*.yaml"))
    return {file.stem: yaml.safe_load(file.read_text()) for file in files}


def write(source: Source, name: str, obj: Object) -> None:
    """Record an object."""
    file = FOLDER / source / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(obj, sort_keys=False, width=120, allow_unicode=True))
