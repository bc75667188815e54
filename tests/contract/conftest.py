"""The `subject` fixture: each cluster that implements the client protocol, in turn.

Every test runs against all of them.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.contract import Processes, Real, Scripted, Subject

REAL = pytest.param("real", marks=pytest.mark.cluster)
HOW_TO_RUN = "needs a cluster: set KUBECONFIG and run make test-cluster (pytest -m cluster)"


@pytest.fixture(params=["scripted", "processes", REAL])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    subject: Scripted | Processes | Real
    if request.param == "real":
        # Run only when asked for by the marker: a user's KUBECONFIG may belong to another cluster.
        if "KUBECONFIG" not in os.environ or "cluster" not in str(request.config.option.markexpr):
            pytest.skip(HOW_TO_RUN)
        subject = Real()
    else:
        subject = Scripted() if request.param == "scripted" else Processes(tmp_path)
    await subject.start()
    yield subject
    await subject.close()
