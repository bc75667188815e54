"""Writes docs/rooms.md: a diagram of the imports between the rooms of both packages. `make generate` runs it.

A room is a package or a module directly below `finetune_operator` or `finetune_trainer`. The diagram leaves out an
arrow if other arrows lead to the same room, so that it shows the layers. The page gives the total number of arrows.
"""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import grimp

PAGE = Path(__file__).with_name("rooms.md")
PACKAGES = ("finetune_operator", "finetune_trainer")
HEAD = """# Rooms

Which room imports which: an arrow points to the room that is imported. Where a room is reached by other arrows, its
direct arrow is left out. `make generate` draws this page, and `make check` holds the order of the rooms.
"""
Imports = dict[str, set[str]]
"""The rooms that each room imports."""


def imports_of(package: str) -> Imports:
    """Return all imports between the rooms of a package."""
    graph = grimp.build_graph(package)
    rooms = sorted(graph.find_children(package))
    for room in rooms:
        graph.squash_module(room)
    imported = {room: graph.find_modules_directly_imported_by(room) - {room} for room in rooms}
    return {_short(room): {_short(other) for other in others if other in rooms} for room, others in imported.items()}


def floors(imports: Imports) -> int:
    """Return the number of rooms in the longest chain of imports. Raises ValueError for a circle."""
    heights: dict[str, int] = {}
    while left := imports.keys() - heights.keys():
        ready = [room for room in left if imports[room] <= heights.keys()]
        if not ready:
            raise ValueError(f"these rooms import each other: {', '.join(sorted(left))}")
        heights |= {room: 1 + max((heights[other] for other in imports[room]), default=0) for room in ready}
    return max(heights.values())


def without_detours(imports: Imports) -> Imports:
    """Return the transitive reduction: no arrow from a room to one that it also reaches through another."""
    reached = {room: set(others) for room, others in imports.items()}
    for _ in imports:
        for room, other in permutations(imports, 2):
            if other in reached[room]:
                reached[room] |= reached[other]
    return {
        room: {other for other in others if not any(other in reached[via] for via in others - {other})}
        for room, others in imports.items()
    }


def page() -> str:
    """Render the page."""
    parts = [HEAD]
    for package in PACKAGES:
        imports = imports_of(package)
        arrows = sum(map(len, imports.values()))
        lines = [
            f"  {room} --> {other}" for room, others in without_detours(imports).items() for other in sorted(others)
        ]
        told = f"{len(imports)} rooms on {floors(imports)} floors, {arrows} arrows in all, none of them back."
        parts += [f"\n## {package}\n\n{told}\n", "```mermaid", "flowchart TD", *lines, "```", ""]
    return "\n".join(parts)


def _short(module: str) -> str:
    return module.split(".", 1)[1]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
