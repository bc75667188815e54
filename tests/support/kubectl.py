"""The kubectl command as users run it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml


class Kubectl:
    """Runs kubectl in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def run(self, *arguments: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one command; if it fails, the error contains its output."""
        done = subprocess.run(
            ["kubectl", "-n", self.namespace, *arguments], input=stdin, capture_output=True, text=True, timeout=120
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done

    def get(self, *arguments: str) -> Any:
        """Return an object, or the items of a list."""
        found = json.loads(self.run("get", *arguments, "-o", "json").stdout)
        return found["items"] if found["kind"] == "List" else found

    def apply(self, manifest: dict[str, Any]) -> None:
        """Apply a manifest server-side."""
        self.run("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))

    def evict(self, pod: str) -> None:
        """Evict a pod through the eviction API, as `kubectl drain` does."""
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.run("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))

    def own_kubeconfig(self, path: Path) -> Path:
        """Write a copy of kubectl's own kubeconfig with this namespace as the default one."""
        config = yaml.safe_load(self.run("config", "view", "--raw", "--minify", "--flatten").stdout)
        (context,) = config["contexts"]
        context["context"]["namespace"] = self.namespace
        path.write_text(yaml.safe_dump(config))
        return path

    def kubeconfig(self, account: str, path: Path) -> Path:
        """Write a kubeconfig like `own_kubeconfig`, with the token of a service account in place of the credentials."""
        config = yaml.safe_load(self.run("config", "view", "--raw", "--minify", "--flatten").stdout)
        (user,) = config["users"]
        user["user"] = {"token": self.run("create", "token", account).stdout.strip()}
        (context,) = config["contexts"]
        context["context"]["namespace"] = self.namespace
        path.write_text(yaml.safe_dump(config))
        return path
