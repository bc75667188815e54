"""Releases of the chart in one namespace, and the objects that they consist of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.helm import Helm, Object
from support.kubectl import Kubectl

KINDS = "deployments,services,serviceaccounts,configmaps,roles,rolebindings"


class Releases:
    """The releases of one chart in one namespace."""

    def __init__(self, helm: Helm, kubectl: Kubectl) -> None:
        self.helm = helm
        self.kubectl = kubectl
        self.names: set[str] = set()

    def install(self, name: str, values: Object, *flags: str, chart: Path | None = None) -> None:
        """Install the helper's chart, or the given one. Raises HelmError, as the other commands do."""
        self.names.add(name)
        self._run("install", name, str(chart or self.helm.chart), *flags, values=values)

    def upgrade(self, name: str, values: Object, *flags: str) -> None:
        """Upgrade the release to the current chart."""
        self._run("upgrade", name, str(self.helm.chart), *flags, values=values)

    def rollback(self, name: str, *flags: str) -> None:
        """Roll the release back to the previous revision."""
        self._run("rollback", name, *flags)

    def uninstall(self, name: str) -> None:
        """Uninstall the release and wait until its objects are deleted."""
        self._run("uninstall", name, "--wait", "--ignore-not-found")
        self.names.discard(name)

    def objects(self, name: str) -> list[str]:
        """Return the names of the release's objects in its namespace."""
        found = self.kubectl.run("get", KINDS, "-l", f"app.kubernetes.io/instance={name}", "-o", "name")
        return found.stdout.split()

    def deployment(self, name: str) -> Object:
        """Return the operator's Deployment."""
        return dict(self.kubectl.get("deployment", f"{name}-finetune-operator"))

    def _run(self, *arguments: str, values: dict[str, Any] | None = None) -> None:
        self.helm.run(*arguments, "--namespace", self.kubectl.namespace, values=values)


@contextlib.contextmanager
def releases_in(helm: Helm, kubectl: Kubectl) -> Iterator[Releases]:
    """Provide the releases of a namespace; uninstall those that still exist when the block ends."""
    found = Releases(helm, kubectl)
    try:
        yield found
    finally:
        for name in list(found.names):
            found.uninstall(name)
