"""The health that kstatus, Argo CD and Flux compute for a FineTuneJob, with the scripts in docs/gitops.

Argo CD runs Lua 5.1 with only the base, package and table libraries, and handles deletion itself. Flux evaluates CEL
without type checks, on the object's top-level fields, and compares the generations itself. kstatus is a Go library, so
this module implements its published rules.
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
    """The health that Argo CD shows."""

    status: str
    message: str


class CelError(Exception):
    """Raised if an expression has no value; Flux then waits and evaluates it again."""


def argo(obj: Object) -> ArgoHealth:
    """Return Progressing, Healthy, Degraded or Suspended, with a message."""
    if "deletionTimestamp" in obj["metadata"]:
        return ArgoHealth("Progressing", "Pending deletion")
    lua = LuaRuntime()
    lua.execute(_NO_LIBRARIES)
    lua.globals()["obj"] = lua.table_from(obj, recursive=True)
    said = lua.execute(HEALTH_LUA.read_text())
    return ArgoHealth(said["status"], said["message"])


def flux(obj: Object) -> str:
    """Return InProgress, Failed or Current. Raises CelError."""
    (check,) = yaml.safe_load(FLUX_HEALTH.read_text())
    if "observedGeneration" in obj.get("status", {}) and not _observed(obj):
        return "InProgress"
    return by_expressions(check, obj)


def by_expressions(check: dict[str, str], obj: Object) -> str:
    """Return the verdict of the first true expression in Flux's order, or InProgress. Raises CelError."""
    for key, verdict in {"inProgress": "InProgress", "failed": "Failed", "current": "Current"}.items():
        value = _CEL.compile(check[key], disable_check=True).eval(data=obj)
        if value.type() != cel.Type.BOOL:
            raise CelError(f"{key}: {value.plain_value()}")
        if value.plain_value():
            return verdict
    return "InProgress"


def kstatus(obj: Object) -> str:
    """Return Terminating, InProgress, Failed or Current."""
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
