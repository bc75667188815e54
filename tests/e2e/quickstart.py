"""The commands of docs/quickstart.md, read out of the page, with this test's names in the place of the page's."""

from __future__ import annotations

import os
import re

from e2e.kind import ROOT, Kind

PAGE = ROOT / "docs" / "quickstart.md"
CPU_BUILD = "BUILD_FLAGS='--build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu'"


def blocks(kind: Kind) -> list[list[str]]:
    """The commands of each block that is marked sh: to get a model, to look around, to clean up."""
    found = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [[adapted(line, kind) for line in block.splitlines()] for block in found]


def adapted(line: str, kind: Kind) -> str:
    """The same command for another virtual environment, folder, cluster and torch than the user's."""
    flags = os.environ.get("BUILD_FLAGS")
    command = line.split("  #")[0].strip()
    if flags is not None:
        command = command.replace(CPU_BUILD, f"BUILD_FLAGS='{flags}'")
    command = command.replace("--name finetune", f"--name {kind.name}")
    command = command.replace("workspace/kind", str(kind.workspace))
    return re.sub(r"(?<!\S)\.venv", str(kind.folder / "venv"), command)
