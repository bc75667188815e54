"""Calls a function when a module has been imported, so that a benchmark can change code in another program's process.

A hook is a `sitecustomize.py` in a folder of PYTHONPATH, which Python loads when it starts.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def after_import(module: str, function: Callable[[Any], None]) -> None:
    """Call `function` with the module as soon as it has been imported."""
    sys.meta_path.insert(0, AfterImport(module, function))


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module as soon as the module has been imported."""

    def __init__(self, module: str, function: Callable[[Any], None]) -> None:
        self._module = module
        self._function = function

    def find_spec(
        self, name: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the module as usual, and make its loader call the function after the module's own code."""
        if name != self._module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._function(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
