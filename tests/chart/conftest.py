"""The chart, rendered by the real helm. Without helm these tests are skipped, and say so."""

from __future__ import annotations

import pytest
from support.helm import Helm, helm_or_skip


@pytest.fixture(scope="session")
def helm() -> Helm:
    """helm with this repository's chart."""
    return helm_or_skip()
