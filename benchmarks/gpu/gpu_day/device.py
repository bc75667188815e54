"""Operations on the GPU: wait for its work, release memory, and read how much memory a process uses."""

from __future__ import annotations

import gc


def wait() -> None:
    """Wait until the GPU, if there is one, has done the work of this process."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free() -> None:
    """Release unused memory and reset the peak."""
    import torch

    # DeepSpeed's engines contain reference cycles.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> int:
    """Return the most bytes that torch had allocated since the last `free`; 0 without a GPU."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def memory_of(pid: int) -> int | None:
    """Return the bytes of GPU memory that a process uses; None if the driver does not report them."""
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
