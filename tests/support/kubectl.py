"""kubectl, as a user runs it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml


class Kubectl:
    """kubectl in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def run(self, *arguments: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command; its output is in the error when it fails."""
        done = subprocess.run(
            ["kubectl", "-n", self.namespace, *arguments], input=stdin, capture_output=True, text=True, timeout=120
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done

    def get(self, *arguments: str) -> Any:
        """An object, or a list's items."""
        found = json.loads(self.run("get", *arguments, "-o", "json").stdout)
        return found["items"] if found["kind"] == "List" else found

    def apply(self, manifest: dict[str, Any]) -> None:
        """Server-side."""
        self.run("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))

    def evict(self, pod: str) -> None:
        """Evict a pod through the eviction API, as `kubectl drain` does."""
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.run("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))

    def own_kubeconfig(self, path: Path) -> Path:
        """That of kubectl, with the namespace as the one that is meant where none is named."""
        config = yaml.safe_load(self.run("config", "view", "--raw", "--minify", "--flatten").stdout)
        (context,) = config["contexts"]
        context["context"]["namespace"] = self.namespace
        path.write_text(yaml.safe_dump(config))
        return path

    def kubeconfig(self, account: str, path: Path) -> Path:
        """As `own_kubeconfig`, with a token of a service account of the namespace in the place of the credentials."""
        config = yaml.safe_load(self.run("config", "view", "--raw", "--minify", "--flatten").stdout)
        (user,) = config["users"]
        user["user"] = {"token": self.run("create", "token", account).stdout.strip()}
        (context,) = config["contexts"]
        context["context"]["namespace"] = self.namespace
        path.write_text(yaml.safe_dump(config))
        return path
