"""What kstatus, Argo CD and Flux make of a FineTuneJob, by the scripts that docs/gitops gives them.

Argo CD runs Lua 5.1 with the base, package and table libraries alone, and looks at the deletion itself. Flux evaluates
CEL without types, over the object's top-level fields, and looks at the generation itself. kstatus is a library in Go,
so its published rules are written down here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from cel_expr_python import cel
from cel_expr_python.ext.ext_optional import ExtOptional
from lupa.lua51 import LuaRuntime

from finetune_operator.protocol import Object

DOCUMENTS = Path(__file__).parents[2] / "docs" / "gitops"
HEALTH_LUA = DOCUMENTS / "health.lua"
FLUX_HEALTH = DOCUMENTS / "flux-health.yaml"
_NO_LIBRARIES = "string, math, io, os, debug, coroutine = nil; getmetatable('').__index = nil"
_CEL = cel.NewEnv(extensions=[ExtOptional()])


class ArgoHealth(NamedTuple):
    """What Argo CD shows."""

    status: str
    message: str


class CelError(Exception):
    """An expression has no value; Flux waits and evaluates it again."""


def argo(obj: Object) -> ArgoHealth:
    """Progressing, Healthy, Degraded or Suspended, with a sentence."""
    if "deletionTimestamp" in obj["metadata"]:
        return ArgoHealth("Progressing", "Pending deletion")
    lua = LuaRuntime()
    lua.execute(_NO_LIBRARIES)
    lua.globals()["obj"] = lua.table_from(obj, recursive=True)
    said = lua.execute(HEALTH_LUA.read_text())
    return ArgoHealth(said["status"], said["message"])


def flux(obj: Object) -> str:
    """InProgress, Failed or Current. Raises CelError."""
    (check,) = yaml.safe_load(FLUX_HEALTH.read_text())
    if "observedGeneration" in obj.get("status", {}) and not _observed(obj):
        return "InProgress"
    return by_expressions(check, obj)


def by_expressions(check: dict[str, str], obj: Object) -> str:
    """In Flux's order: the first that is true; none: InProgress. Raises CelError."""
    for key, verdict in {"inProgress": "InProgress", "failed": "Failed", "current": "Current"}.items():
        value = _CEL.compile(check[key], disable_check=True).eval(data=obj)
        if value.type() != cel.Type.BOOL:
            raise CelError(f"{key}: {value.plain_value()}")
        if value.plain_value():
            return verdict
    return "InProgress"


def kstatus(obj: Object) -> str:
    """Terminating, InProgress, Failed or Current."""
    if "deletionTimestamp" in obj["metadata"]:
        return "Terminating"
    status: dict[str, Any] = obj.get("status", {})
    if "observedGeneration" in status and not _observed(obj):
        return "InProgress"
    conditions = status.get("conditions", [])
    for condition in conditions:
        if condition["status"] == "True" and condition["type"] in ("Reconciling", "Stalled"):
            return "InProgress" if condition["type"] == "Reconciling" else "Failed"
    ready = next((c["status"] for c in conditions if c["type"] == "Ready"), "True")
    return "Current" if ready == "True" else "InProgress"


def _observed(obj: Object) -> bool:
    return bool(obj["status"]["observedGeneration"] == obj["metadata"]["generation"])
