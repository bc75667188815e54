"""Plays every scene and writes the objects to tests/support/recorded, where the tests of health read them."""

from __future__ import annotations

import asyncio

from gitops.scenes import SCENES
from support.recordings import write


async def record() -> None:
    """Play and record all scenes, one after the other."""
    for name, play in SCENES.items():
        write("memory", name, await play())


if __name__ == "__main__":
    asyncio.run(record())
