"""The facts about the machine, and whether the day can run on it.

`python -m gpu_day.machine` prints the facts as JSON. It runs in its own process, because a process that has queried a
GPU holds half a gigabyte of its memory until it ends.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "deepspeed", "datasets", "accelerate", "safetensors", "numpy")
NEEDED = (*PACKAGES, "pydantic", "kopf", "kubernetes", "aiohttp", "rich", "yaml", "prometheus_client")
"""The modules without which the operator or the trainer cannot be imported."""


def facts() -> dict[str, Any]:
    """Return versions, processors, and the GPU if torch finds one.

    `missing` names the modules that are not installed.
    """
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)),
        "missing": [name for name in NEEDED if importlib.util.find_spec(name) is None],
        "packages": {name: _version(name) for name in PACKAGES},
        "driverCuda": driver_cuda(),
    }
    if "torch" not in found["missing"]:
        import torch

        found["torchCuda"] = torch.version.cuda
        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(0)
            found["card"] = properties.name
            found["gpuBytes"] = properties.total_memory
            found["capability"] = f"{properties.major}.{properties.minor}"
            found["driver"] = driver_version()
    return found


def problem(found: dict[str, Any], device: str) -> str | None:
    """Return one sentence about why the day cannot run on a machine with these facts; None if it can."""
    if missing := found["missing"]:
        return (
            f"the module {missing[0]} is not installed here{_and_others(missing)}; build the wheels with "
            "benchmarks/gpu/carry.sh, install them without an index, and set PYTHONPATH to their folder"
        )
    if device == "cpu":
        return None
    wanted, driver = found["torchCuda"], found["driverCuda"]
    if wanted is None:
        return "--device cuda: this torch is built for CPUs only; install one that is built for CUDA"
    if driver is None:
        return "--device cuda: this machine has no NVIDIA driver; use one with a GPU, or --device cpu --small"
    if driver // 1000 < int(wanted.split(".")[0]):
        return (
            f"--device cuda: the driver of this machine supports CUDA {_cuda(driver)}, which is too old for a torch "
            f"that is built for CUDA {wanted}; use a newer driver or an older torch"
        )
    if "card" not in found:
        return "--device cuda: torch finds no GPU on this machine; use one with a GPU, or --device cpu --small"
    return None


def driver_cuda() -> int | None:
    """Return the newest CUDA that the driver supports, as 1000 x major + 10 x minor; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    return version.value if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


def driver_version() -> str | None:
    """Return the driver's release version, such as 580.159.04; None if the kernel module does not show it."""
    try:
        with open("/proc/driver/nvidia/version") as file:
            words = file.readline().split()
    except OSError:
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), None)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _and_others(missing: list[str]) -> str:
    return f" (and neither are {', '.join(missing[1:])})" if len(missing) > 1 else ""


def _cuda(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


if __name__ == "__main__":
    json.dump(facts(), sys.stdout)
