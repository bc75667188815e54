"""The `kind` fixture: `make e2e` creates a kind cluster and deletes it.

Without Docker and kind it fails with a message that says what to install.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.kind import Kind, unmet_need


@pytest.fixture
def kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kind]:
    """Provide a cluster that does not exist yet, and delete it however the test ends.

    KIND_CLUSTER names the cluster.
    """
    name = os.environ.get("KIND_CLUSTER", "finetune-e2e")
    if need := unmet_need(name):
        pytest.fail(need, pytrace=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    found = Kind(name, tmp_path)
    try:
        yield found
    finally:
        found.delete()
