"""The operator's pod, and the chart's values to run it from the image of FINETUNE_OPERATOR_IMAGE."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from support.kubectl import Kubectl

VARIABLE = "FINETUNE_OPERATOR_IMAGE"
DEADLINE = 90.0
"""Seconds until the operator must be ready, or must have reconciled a job."""


def operator_values(trainer_image: str) -> dict[str, Any]:
    """Return the values of a release that watches its own namespace; skip the test without an operator's image."""
    image = os.environ.get(VARIABLE)
    if not image:
        pytest.skip(f"needs an operator's image in the nodes: make it by tests/cluster/test-images.sh, set {VARIABLE}")
    return {"scope": "namespaced", "image": _image(image), "trainer": {"image": _image(trainer_image)}}


def _image(name: str) -> dict[str, str]:
    repository, tag = name.rsplit(":", 1)
    return {"repository": repository, "tag": tag}


class OperatorPod:
    """A release's current pod, when it is ready."""

    def __init__(self, kubectl: Kubectl, release: str) -> None:
        self._kubectl = kubectl
        deployment = f"deployment/{release}-finetune-operator"
        done = kubectl.run("rollout", "status", deployment, f"--timeout={DEADLINE:.0f}s", check=False)
        assert done.returncode == 0, done.stderr + kubectl.run("logs", deployment, check=False).stdout
        running = kubectl.get(
            "pods", "-l", f"app.kubernetes.io/instance={release}", "--field-selector=status.phase=Running"
        )
        (pod,) = (pod for pod in running if "deletionTimestamp" not in pod["metadata"])
        self.uid = str(pod["metadata"]["uid"])
        self._proxy = f"/api/v1/namespaces/{kubectl.namespace}/pods/{pod['metadata']['name']}:8080/proxy"

    def metrics(self) -> dict[str, float]:
        """Return the metrics, by series, as Prometheus reads them."""
        lines = self._kubectl.run("get", "--raw", f"{self._proxy}/metrics").stdout.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}

    def has_reconciled(self, job: str, phase: str) -> None:
        """Wait until the operator has reconciled the only job of its namespace, and check that no reconcile failed."""
        deadline = time.monotonic() + DEADLINE
        while True:
            found = self.metrics()
            done = found['finetune_reconcile_total{result="success"}']
            if done and found[f'finetune_jobs{{phase="{phase}"}}'] == 1:
                break
            assert time.monotonic() < deadline, f"{job} was not looked at, or is not {phase}: {found}"
            time.sleep(0.3)
        assert found['finetune_reconcile_total{result="error"}'] == 0
