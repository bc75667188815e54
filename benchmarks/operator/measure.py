"""Measures the operator's cost compared with the floor, on fake nodes: times, API writes, CPU, memory, recovery.

    make benchmark-operator        # writes results.json and results.md beside this file

It needs KUBECONFIG of a cluster with fake nodes, and FINETUNE_AUDIT_LOG, the path of its API server's audit log.
README.md describes how to make both, and exactly what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from operator_benchmark import objects
from operator_benchmark.audit import AuditLog
from operator_benchmark.generator import Generator
from operator_benchmark.results import Case, Measurement, Results
from operator_benchmark.scenarios import Bench
from operator_benchmark.table import FLOOR, FLOOR_RANK_0, IDLE, RECOVER, START, markdown

from finetune_operator.kube.client import ConfigurationError
from finetune_operator.protocol import ApiError

HERE = Path(__file__).parent
SCENARIOS = (FLOOR, FLOOR_RANK_0, START, RECOVER, IDLE)
MAX_FLOOR_RANK_0 = 100
"""The most jobs with which the floor's variant is measured; more would only take time."""
AUDIT_LOG = "FINETUNE_AUDIT_LOG"


def main() -> int:
    options = _options()
    path = os.environ.get(AUDIT_LOG)
    if not path:
        return _refuse(f"{AUDIT_LOG} is not set; set it to the path of the API server's audit log")
    audit = AuditLog(Path(path))
    try:
        audit.mark()
    except OSError as error:
        return _refuse(f"{AUDIT_LOG}: '{path}' cannot be read ({error.strerror}); set it to the API server's audit log")
    try:
        asyncio.run(_measure(options, audit))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _refuse("interrupted; what was measured is kept")
    except ConfigurationError as error:
        return _refuse(str(error))
    except ExceptionGroup as group:
        expected, others = group.split((ApiError, TimeoutError, ValueError))
        if others or not expected:
            raise
        return _refuse("; ".join(map(str, expected.exceptions)))
    return 0


def _refuse(sentence: str) -> int:
    print(f"measure.py: {sentence}", file=sys.stderr)
    return 2


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_words, default=SCENARIOS, help=f"some of {','.join(SCENARIOS)}")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--jobs", type=_numbers, default=(10, 100, 500), help="sizes of start and floor")
    parser.add_argument("--failing", type=_numbers, default=(1, 50), help="sizes of recover")
    parser.add_argument("--finished", type=int, default=1000, help="jobs of idle")
    parser.add_argument("--idle-seconds", type=float, default=30, help="of rest, in each repetition of idle")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results.json and results.md")
    return parser.parse_args()


def _words(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    if unknown := set(words) - set(SCENARIOS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose of {', '.join(SCENARIOS)}")
    return words


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


async def _measure(options: argparse.Namespace, audit: AuditLog) -> None:
    task = asyncio.current_task()
    assert task is not None
    # Otherwise the operator would continue to run after this process.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with tempfile.TemporaryDirectory() as folder:
        async with Generator.connected() as generator:
            await generator.check_room(_most_jobs(options) * objects.PODS)
            machine = f"{platform.machine()}, {os.cpu_count()} cores, Kubernetes {await generator.server_version()}"
            results = Results(options.output / "results.json", {"machine": machine})
            bench = Bench(generator, audit, Path(folder), options.idle_seconds)
            for case, scenario in _plan(options, bench):
                began = time.monotonic()
                measured = await scenario()
                seconds = time.monotonic() - began
                results.add(case, {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **measured})
                (options.output / "results.md").write_text(markdown(results))
                print(f"{case.scenario} {case.jobs}: {seconds:.0f} s, {_summary(measured)}", flush=True)


def _most_jobs(options: argparse.Namespace) -> int:
    """Return the most jobs that run at a time."""
    starting = options.jobs if {FLOOR, FLOOR_RANK_0, START} & set(options.only) else ()
    failing = options.failing if RECOVER in options.only else ()
    return max((*starting, *failing), default=0)


def _plan(options: argparse.Namespace, bench: Bench) -> Iterator[tuple[Case, Callable[[], Awaitable[Measurement]]]]:
    """Yield the measurements. Each repetition makes all of them, so that a machine that becomes slower affects all."""
    for _ in range(options.repetitions):
        for jobs in options.jobs:
            if FLOOR in options.only:
                yield Case(FLOOR, jobs), lambda jobs=jobs: bench.floor(jobs, "all pods")
            if FLOOR_RANK_0 in options.only and jobs <= MAX_FLOOR_RANK_0:
                yield Case(FLOOR_RANK_0, jobs), lambda jobs=jobs: bench.floor(jobs, "rank 0")
            if START in options.only:
                yield Case(START, jobs), lambda jobs=jobs: bench.start(jobs)
        for jobs in options.failing:
            if RECOVER in options.only:
                yield Case(RECOVER, jobs), lambda jobs=jobs: bench.recover(jobs)
    for _ in range(options.repetitions):
        if IDLE in options.only:
            yield Case(IDLE, options.finished), lambda: bench.idle(options.finished)


def _summary(measured: Measurement) -> str:
    words = {key: value for key, value in measured.items() if key not in ("writes", "reads", "created")}
    return ", ".join(f"{key} {value}" for key, value in words.items())


if __name__ == "__main__":
    sys.exit(main())
