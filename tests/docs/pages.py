"""Reads the documents and their fenced blocks."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/README.md")])
TUTORIALS = tuple(sorted(page for page in ROOT.glob("docs/tutorials/*.md") if page.name != "cluster.md"))


def blocks(page: Path, language: str) -> list[str]:
    """Return the text of each fenced block in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Return the commands in the page's sh blocks, without their comments."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    stripped = (line.split("  #")[0].strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def needs_cluster(command: str) -> bool:
    return command.startswith(("kubectl", "helm", "finetune watch", "finetune logs", "finetune submit"))
