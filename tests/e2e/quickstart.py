"""The commands of docs/quickstart.md, read from the page, with this test's names instead of the page's."""

from __future__ import annotations

import os
import re

from e2e.kind import ROOT, Kind

PAGE = ROOT / "docs" / "quickstart.md"
CPU_BUILD = "BUILD_FLAGS='--build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu'"


def blocks(kind: Kind) -> list[list[str]]:
    """Return the commands of each sh block: to get a model, to look around, to clean up."""
    found = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [[adapted(line, kind) for line in block.splitlines()] for block in found]


def adapted(line: str, kind: Kind) -> str:
    """Return the command with the test's virtual environment, folder, cluster and build of torch."""
    flags = os.environ.get("BUILD_FLAGS")
    command = line.split("  #")[0].strip()
    if flags is not None:
        command = command.replace(CPU_BUILD, f"BUILD_FLAGS='{flags}'")
    command = command.replace("--name finetune", f"--name {kind.name}")
    command = command.replace("workspace/kind", str(kind.workspace))
    return re.sub(r"(?<!\S)\.venv", str(kind.folder / "venv"), command)
