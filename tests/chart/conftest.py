"""Fixtures that render the chart with the real helm. The tests are skipped with a message if helm is not installed."""

from __future__ import annotations

import pytest
from support.helm import Helm, helm_or_skip


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Return helm with this repository's chart."""
    return helm_or_skip()
