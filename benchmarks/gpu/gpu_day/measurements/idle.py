"""(g) Where small models spend their time: how long the GPU is idle, how often the host waits for it, and for data."""

from __future__ import annotations

import io
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpu_day.device import free, peak
from gpu_day.models import BERT, BERT_LARGE, LABELS, MARKS, TINY, VIT, VIT_LARGE, Family, config_of, tokenizer
from gpu_day.step import Column, Day, Figures, Step, gibibytes, number, percent

TOKENS = 128
WARM_UP, MEASURED, PROFILED = 3, 6, 3
SYNCHRONISATIONS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls in which the host waits for the device. Reading a number from the device makes the first of them."""
WORKLOADS: dict[str, tuple[Family, int]] = {
    "BERT-large, 8 x 128 tokens": (BERT, 8),
    "BERT-large, 128 x 128 tokens": (BERT, 128),
    "ViT-L, 32 pictures of 224 px": (VIT, 32),
}


def measure(day: Day) -> None:
    """Measure all models in Full, one after the other, with the trainer's own loop and loading."""
    from gpu_day.here import Here

    here = Here(day)
    for name in day.rows:
        with day.row(name) as figures:
            figures.update(_measure(day, here, *WORKLOADS[name]))


def _measure(day: Day, here: Any, family: Family, rows: int) -> Figures:
    from gpu_day.here import prepared_of

    rows = rows if day.on_gpu else min(rows, 4)
    shape = (VIT_LARGE if family is VIT else BERT_LARGE) if day.on_gpu else {**TINY, "num_hidden_layers": 1}
    model_config = config_of(family, shape, vocabulary=30522)
    train, processor = _rows(day, family, rows * 4, model_config)
    prepared = prepared_of(train, model_config, TOKENS, processor, classes=len(LABELS))
    steps = WARM_UP + MEASURED + PROFILED
    config = here.config(
        family, max_steps=steps, global_batch_size=rows, micro_batch_size=rows, sequence_length=TOKENS,
    )  # fmt: skip
    engine = here.engine(config, family, model_config, prepared)
    free()
    with _timed_loading() as loading:
        seconds, busy, waits = _steps(day, here.steps(engine, prepared, config))
    step = statistics.median(seconds)
    engine.destroy()
    figures: Figures = {"seconds": step, "rowsPerSecond": rows / step}
    figures["dataShare"] = statistics.median(loading[WARM_UP : WARM_UP + MEASURED]) / step
    if day.on_gpu:
        figures.update({"idle": max(0.0, 1 - busy / step), "synchronisations": waits, "peak": peak()})
    return figures


def _rows(day: Day, family: Family, count: int, model_config: Any) -> tuple[Any, Any]:
    """Return encoded rows, as `prepare` makes them, and the tokenizer or image processor."""
    import datasets

    from gpu_day.here import token_rows

    if family is BERT:
        rows = token_rows([TOKENS if day.on_gpu else 8] * count, model_config.vocab_size)
        rows = rows.remove_columns(["labels", "count"])
        rows = rows.add_column("label", [n % 3 for n in range(count)]).add_column("count", [1] * count)
        return rows, tokenizer(len(MARKS) + 1)
    from transformers import AutoImageProcessor, ViTImageProcessor

    side = model_config.image_size
    folder = day.folder / "processor"
    ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    pictures = [{"bytes": _picture(side, number), "path": None} for number in range(count)]
    columns = {"id": [f"made:{n}" for n in range(count)], "image": pictures, "label": [n % 3 for n in range(count)]}
    rows = datasets.Dataset.from_dict({**columns, "count": [1] * count, "length": [0] * count})
    return rows.cast_column("image", datasets.Image()), AutoImageProcessor.from_pretrained(folder, backend="pil")


def _picture(side: int, number: int) -> bytes:
    """Return a JPEG with twice the model's side, whose file is as large as a photograph's of that size."""
    from PIL import Image, ImageFilter

    noise = random.Random(number).randbytes(4 * side * side * 3)
    picture = Image.frombytes("RGB", (2 * side, 2 * side), noise).filter(ImageFilter.GaussianBlur(2))
    with io.BytesIO() as file:
        picture.save(file, format="JPEG", quality=90)
        return file.getvalue()


@contextmanager
def _timed_loading() -> Iterator[list[float]]:
    """Yield a list that collects the seconds of decoding, collating and copying each micro-batch to the device."""
    from finetune_trainer.training import steps

    load, seconds = steps.load_batch, []

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        batch = load(*arguments)
        seconds.append(time.perf_counter() - began)
        return batch

    steps.load_batch = timed
    try:
        yield seconds
    finally:
        steps.load_batch = load


def _steps(day: Day, steps: Iterator[float]) -> tuple[list[float], float, float]:
    """Return the seconds of steps without a profiler, and the profiler's figures for further steps.

    The profiler's figures, for each step, are the seconds in which the device is busy and the number of times the host
    waits for it.
    """
    from torch.profiler import ProfilerActivity, profile

    for _ in range(WARM_UP):
        next(steps)
    # These steps come first, because a profiler also slows the steps after it.
    seconds = [next(steps) for _ in range(MEASURED)]
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if day.on_gpu else [])]
    with profile(activities=kinds) as profiler:
        for _ in range(PROFILED):
            next(steps)
    trace = day.folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    busy, waits = told_by(trace)
    # Each step ends with a wait of the benchmark, and the profiler ends with one.
    return seconds, busy / PROFILED, (waits - PROFILED - 1) / PROFILED


def told_by(trace: Path) -> tuple[float, int]:
    """Return how long the device was busy, in seconds, and how often the host waited for it, from torch's trace."""
    events = json.loads(trace.read_text())["traceEvents"]
    device = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    spans = [(event["ts"], event["ts"] + event["dur"]) for event in device]
    waits = sum(1 for event in events if event.get("name") in SYNCHRONISATIONS)
    return covered(spans) / 1e6, waits


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the length that at least one of the spans covers."""
    total, end = 0.0, float("-inf")
    for begin, stop in sorted(spans):
        total += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    return total


STEP = Step(
    letter="g",
    name="idle",
    title="BERT-large and ViT-L in Full: idle GPU, synchronisations, waiting for data",
    seconds=50,
    rows=tuple(WORKLOADS),
    columns=(
        Column("seconds", "s for a step", number(3)),
        Column("rowsPerSecond", "rows/s", number(4)),
        Column("idle", "GPU idle", percent),
        Column("synchronisations", "synchronisations for a step", number(3)),
        Column("dataShare", "loading data, share of the step", percent),
        Column("peak", "peak GiB", gibibytes),
    ),
    measure=measure,
    note="bf16, ZeRO-2, the trainer's own loop. A profiler counts what ran on the GPU; other steps give the seconds.",
)
