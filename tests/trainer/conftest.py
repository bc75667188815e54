"""Fixtures for tests that train."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from trainer.worlds import Worlds


@pytest.fixture(scope="session")
def worlds() -> Iterator[Worlds]:
    """Yield the worlds of the session: `worlds(2)` is a world of two ranks."""
    made = Worlds()
    yield made
    made.close()
