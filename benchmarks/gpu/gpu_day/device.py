"""What the steps ask of the card: to finish its work, to give memory back, and how much of it a process has."""

from __future__ import annotations

import gc


def wait() -> None:
    """Returns when the card, if there is one, has done what this process asked of it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free() -> None:
    """Gives back the memory that nothing uses any more; the peak begins anew."""
    import torch

    # DeepSpeed's engines are cycles of references.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> int:
    """The most bytes that torch had allocated since the last `free`; 0 without a card."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def memory_of(pid: int) -> int | None:
    """The bytes that a process has on the card, 0 if it has none; None where the driver does not tell."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByIndex(0)
        found = {process.pid: process.usedGpuMemory for process in pynvml.nvmlDeviceGetComputeRunningProcesses(card)}
    except pynvml.NVMLError:
        return None
    return found.get(pid, 0)
