"""The restricted Pod Security Standard: https://kubernetes.io/docs/concepts/security/pod-security-standards/."""

from __future__ import annotations

from typing import Any

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


def violations(template: dict[str, Any]) -> list[str]:
    """Return what a namespace that enforces the restricted standard would refuse in a pod template."""
    pod = template["spec"]
    found = [f"{name} is true" for name in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if pod.get(name)]
    for volume in pod.get("volumes", []):
        found += [f"volume {volume['name']} is a {kind}" for kind in volume if kind not in VOLUMES | {"name"}]
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        found += _of_container(container, pod.get("securityContext", {}))
    return found


def _of_container(container: dict[str, Any], pod_context: dict[str, Any]) -> list[str]:
    own = container.get("securityContext", {})
    both = {**pod_context, **own}
    found = []
    if own.get("privileged"):
        found.append("privileged")
    if own.get("allowPrivilegeEscalation") is not False:
        found.append("allowPrivilegeEscalation is not false")
    if "ALL" not in own.get("capabilities", {}).get("drop", []):
        found.append("capabilities are not dropped")
    if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
        found.append("capabilities are added")
    if both.get("runAsNonRoot") is not True:
        found.append("runAsNonRoot is not true")
    if both.get("runAsUser") == 0:
        found.append("runAsUser is 0")
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("no seccomp profile")
    if any("hostPort" in port for port in container.get("ports", [])):
        found.append("a host port")
    return [f"container {container['name']}: {fault}" for fault in found]
