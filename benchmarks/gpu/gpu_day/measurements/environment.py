"""(a) The machine: driver, torch, NCCL, and the imports of the trainer, with and without a compiler in PATH."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gpu_day.device import wait
from gpu_day.schedule import environment
from gpu_day.step import Column, Day, Step, number, yes_or_no

COPY_BYTES = 4 * 1024**3
PRODUCT_SIDE = 8192
REPETITIONS = 10
COMPILERS = ("gcc", "cc", "g++", "c++", "nvcc")

IMPORT_ALL = """
import importlib, json, sys, time
began, failed = time.monotonic(), {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"[:200]
print(json.dumps({"seconds": time.monotonic() - began, "failed": failed}))
"""


def measure(day: Day) -> None:
    """Measure all rows."""
    with ThreadPoolExecutor() as pool:
        with_compiler = pool.submit(_imports, dict(os.environ), day.device)
        with tempfile.TemporaryDirectory() as empty:
            bare = pool.submit(_imports, {**os.environ, "PATH": empty, "TORCH_EXTENSIONS_DIR": empty}, day.device)
            with day.row("imports, compilers in PATH") as figures:
                figures.update(with_compiler.result())
            with day.row("imports, nothing in PATH") as figures:
                figures.update(bare.result())
    with day.row("driver and torch") as figures:
        figures["said"] = _said(day)
    with day.row("all-reduce of one rank") as figures:
        figures.update(_all_reduce(day))
    with day.row("matrix product and copy") as figures:
        figures.update(_ceilings(day))


def modules() -> list[str]:
    """Return all modules of the trainer, and the one that trains on this machine."""
    import finetune_trainer

    found = [m.name for m in pkgutil.walk_packages(finetune_trainer.__path__, "finetune_trainer.")]
    return [*found, "finetune_operator.cli.run"]


def _imports(variables: dict[str, str], device: str) -> dict[str, Any]:
    """Import all modules in a new process."""
    variables = {**variables, **{k: v for k, v in environment().items() if k != "PATH"}, "DS_ACCELERATOR": device}
    began = time.monotonic()
    command = [sys.executable, "-c", IMPORT_ALL, json.dumps(modules())]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip() or "no output").splitlines()[-1])
    told = json.loads(done.stdout.splitlines()[-1])
    compilers = [name for name in COMPILERS if _in_path(name, variables["PATH"])]
    if told["failed"]:
        name, reason = next(iter(told["failed"].items()))
        raise RuntimeError(f"{len(told['failed'])} modules cannot be imported, {name} for one: {reason}")
    return {"seconds": time.monotonic() - began, "said": f"compilers: {', '.join(compilers) or 'none'}"}


def _in_path(name: str, path: str) -> bool:
    return any((Path(folder) / name).exists() for folder in path.split(os.pathsep))


def _said(day: Day) -> str:
    machine = day.record.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    card = f"{machine['card']}, driver {machine['driver'] or 'unknown'}, " if "card" in machine else ""
    return f"{card}CUDA {machine.get('torchCuda')}, Python {machine['python']}, {packages}, {machine['system']}"


def _all_reduce(day: Day) -> dict[str, Any]:
    """Sum 1 GiB over the only rank of a world."""
    import torch
    import torch.distributed as dist

    backend = "nccl" if day.on_gpu else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    tensor = torch.ones(2**28 if day.on_gpu else 2**20, device=day.device)
    began = time.monotonic()
    dist.all_reduce(tensor)
    is_right = bool((tensor == 1).all())
    seconds = time.monotonic() - began
    version = ".".join(map(str, torch.cuda.nccl.version())) if day.on_gpu else ""
    dist.destroy_process_group()
    if not is_right:
        raise RuntimeError("the sum over one rank is not the tensor itself")
    return {"seconds": seconds, "said": f"{backend} {version}".strip()}


def _ceilings(day: Day) -> dict[str, Any]:
    """Measure a bf16 matrix product and a copy on random numbers: the upper limits of all other figures."""
    import torch

    side = PRODUCT_SIDE if day.on_gpu else 256
    left, right = (torch.randn(side, side, device=day.device, dtype=torch.bfloat16) for _ in range(2))
    product = _seconds(lambda: left @ right)
    source = torch.empty(COPY_BYTES if day.on_gpu else 2**20, dtype=torch.uint8, device=day.device)
    target = torch.empty_like(source)
    copied = _seconds(lambda: target.copy_(source))
    return {
        "teraflops": 2 * side**3 / product / 1e12,
        "gigabytes": 2 * source.numel() / copied / 1e9,
        "bf16": not day.on_gpu or torch.cuda.is_bf16_supported(),
    }


def _seconds(action: Any) -> float:
    """Return the mean seconds over some repetitions, after three for warming up."""
    for _ in range(3):
        action()
    wait()
    began = time.monotonic()
    for _ in range(REPETITIONS):
        action()
    wait()
    return (time.monotonic() - began) / REPETITIONS


STEP = Step(
    letter="a",
    name="environment",
    title="Driver, torch, NCCL, and all imports of the trainer",
    seconds=40,
    rows=(
        "driver and torch",
        "imports, compilers in PATH",
        "imports, nothing in PATH",
        "all-reduce of one rank",
        "matrix product and copy",
    ),
    columns=(
        Column("said", "what was found"),
        Column("seconds", "s", number(2)),
        Column("teraflops", "TFLOP/s in bf16", number(3)),
        Column("gigabytes", "GB/s read and written", number(4)),
        Column("bf16", "has bf16", yes_or_no),
    ),
    measure=measure,
    note="The imports of both rows run at the same time. One rank proves that NCCL loads, and no communication.",
)
