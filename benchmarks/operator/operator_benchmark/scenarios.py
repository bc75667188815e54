"""The scenarios: each creates its load, measures, and leaves the namespace empty."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_operator.protocol import FINETUNEJOBS
from operator_benchmark import objects
from operator_benchmark.audit import AuditLog, Mark, Request, check_alone, requests, writes
from operator_benchmark.generator import PATIENCE, USER_AGENT, Generator
from operator_benchmark.percentiles import of_jobs
from operator_benchmark.process import OperatorProcess
from operator_benchmark.sightings import Gang

QUIET = 2.0
"""Seconds without a write after which all writes that a load causes have been made."""
LONGEST_UNREST = 20.0
REST, SETTLED_BELOW = 3.0, 0.02
"""Seconds of rest, and the share of a core below which an operator counts as settled."""

Measurement = dict[str, Any]


@dataclass
class Bench:
    """The tools with which scenarios are made."""

    generator: Generator
    audit: AuditLog
    folder: Path
    idle_seconds: float

    # ---- scenarios ---------------------------------------------------------------------------------------------------

    async def floor(self, jobs: int, names: objects.Names) -> Measurement:
        """Measure Jobs and Services without an operator: the cost of the cluster itself."""
        load = [objects.floor(name, self.generator.namespace, names) for name in _names(jobs)]
        with _Usage() as usage:
            mark = self.audit.mark()
            made = await self.generator.create_all(load)
            await self._run(made, 1)
            times = self._times(made, 1)
        counted = await self._counted(mark)
        await self.generator.clear()
        return {**times, **_per_job(counted, jobs), **usage.of(jobs)}

    async def start(self, jobs: int) -> Measurement:
        """Measure FineTuneJobs, from the create call until the status reports that all pods run."""
        seen = self.generator.seen
        load = [[objects.finetunejob(name, self.generator.namespace)] for name in _names(jobs)]
        async with self._operator() as operator:
            with _Usage(operator) as usage:
                mark = self.audit.mark()
                made = await self.generator.create_all(load)
                await self._run(made, 1)
                await seen.until(
                    lambda: all(Gang(name, 1) in seen.told for name in made), "each status says so", PATIENCE
                )
                times = self._times(made, 1)
            before, began = operator.cpu_seconds, time.monotonic()
            counted = await self._counted(mark)
            minutes = (time.monotonic() - began) / 60
            further = {
                "waiting_cpu_ms_per_minute": round((operator.cpu_seconds - before) * 1000 / jobs / minutes, 1),
                "peak_rss_mib": round(operator.peak_rss_mebibytes, 1),
            }
        await self.generator.clear()
        return {**times, **_per_job(counted, jobs), **usage.of(jobs), **further}

    async def recover(self, jobs: int) -> Measurement:
        """Measure recovery after one pod of each gang fails at the same time.

        It lasts until four new pods run and the status reports it.
        """
        seen = self.generator.seen
        load = [[objects.finetunejob(name, self.generator.namespace)] for name in _names(jobs)]
        async with self._operator() as operator:
            made = await self.generator.create_all(load)
            await self._run(made, 1)
            await self._counted(self.audit.mark())
            victims = [seen.of(Gang(name, 1))[-1] for name in made]
            with _Usage(operator) as usage:
                mark = self.audit.mark()
                failed = await self.generator.fail_all(victims)
                await self._run(failed, 2)
                await seen.until(
                    lambda: all(Gang(name, 2) in seen.told for name in made), "each status says so", PATIENCE
                )
                times = self._times(failed, 2)
            counted = await self._counted(mark)
        await self.generator.clear()
        return {**times, **_per_job(counted, jobs), **usage.of(jobs)}

    async def idle(self, jobs: int) -> Measurement:
        """Measure an operator that starts when all jobs have finished, and then has nothing to do."""
        if len(self.generator.seen.jobs) != jobs:
            await self.generator.finish_all(
                objects.finetunejob(name, self.generator.namespace) for name in _names(jobs)
            )
        began = time.monotonic()
        async with OperatorProcess(self.generator.namespace, self.folder) as operator:
            await _settled(operator, jobs)
            settled = time.monotonic() - began
            mark, before = self.audit.mark(), operator.cpu_seconds
            await asyncio.sleep(self.idle_seconds)
            minutes = self.idle_seconds / 60
            counted = requests(self.audit.since(mark), self.generator.namespace)
            return {
                "settled_s": round(settled, 2),
                "rss_mib": round(operator.rss_mebibytes, 1),
                "peak_rss_mib": round(operator.peak_rss_mebibytes, 1),
                "cpu_ms_per_minute": round((operator.cpu_seconds - before) * 1000 / minutes, 1),
                "writes_per_minute": round(sum(writes(counted, USER_AGENT).values()) / minutes, 2),
                "requests_per_minute": round(sum(n for r, n in counted.items() if r.client != USER_AGENT) / minutes, 2),
            }

    # ---- inside ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _operator(self) -> AsyncIterator[OperatorProcess]:
        """Yield an operator that has already started one job, so that its watches are open."""
        async with OperatorProcess(self.generator.namespace, self.folder) as operator:
            first = objects.finetunejob("first", self.generator.namespace)
            await self._run(await self.generator.create_all([[first]]), 1)
            await self.generator.clear()
            yield operator

    async def _run(self, made: dict[str, float], attempt: int) -> None:
        seen = self.generator.seen
        await seen.until(lambda: all(Gang(name, attempt) in seen.running for name in made), "all pods run", PATIENCE)

    def _times(self, since: dict[str, float], attempt: int) -> Measurement:
        seen, times = self.generator.seen, {}
        for what, moments in (("created", seen.created), ("running", seen.running), ("told", seen.told)):
            if moments:
                found = [max(0.0, moments[Gang(name, attempt)] - began) for name, began in since.items()]
                times[what] = of_jobs(found)
        return times

    async def _counted(self, mark: Mark) -> Counter[Request]:
        """Return all requests since the mark, after all writes have been made."""
        deadline = time.monotonic() + LONGEST_UNREST
        found, last = requests(self.audit.since(mark), self.generator.namespace), -1
        while (now := sum(writes(found, USER_AGENT).values())) != last and time.monotonic() < deadline:
            last = now
            await asyncio.sleep(QUIET)
            found = requests(self.audit.since(mark), self.generator.namespace)
        check_alone(found, f"{FINETUNEJOBS.plural}/status")
        return found


class _Usage:
    """A context manager that measures the CPU time of the operator and of the generator, which share the machine."""

    def __init__(self, operator: OperatorProcess | None = None) -> None:
        self._operator = operator

    def __enter__(self) -> _Usage:
        self._before = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self._after = self._now()

    def of(self, jobs: int) -> Measurement:
        """Return the CPU time in milliseconds for each job."""
        spans = zip(self._before, self._after, strict=True)
        used = [round((after - before) * 1000 / jobs, 2) for before, after in spans]
        return {"generator_cpu_ms": used[0], **({"operator_cpu_ms": used[1]} if self._operator else {})}

    def _now(self) -> tuple[float, float]:
        return time.process_time(), self._operator.cpu_seconds if self._operator else 0.0


async def _settled(operator: OperatorProcess, jobs: int) -> None:
    """Wait until the operator has reconciled all jobs and has used almost no CPU for some seconds."""
    try:
        async with asyncio.timeout(PATIENCE):
            while await operator.reconciles() < jobs:
                await asyncio.sleep(0.5)
            before = -REST
            while operator.cpu_seconds - before > REST * SETTLED_BELOW:
                before = operator.cpu_seconds
                await asyncio.sleep(REST)
    except TimeoutError:
        raise TimeoutError(f"waited {PATIENCE:.0f} s in vain until the operator came to rest") from None


def _per_job(counted: Counter[Request], jobs: int) -> Measurement:
    """Return the writes of all clients but the generator, and their other requests, for each job."""
    changed = writes(counted, USER_AGENT)
    reads = Counter({r: n for r, n in counted.items() if r not in changed and r.client != USER_AGENT})
    return {
        "writes_per_job": round(sum(changed.values()) / jobs, 3),
        "writes": {" ".join(request): round(n / jobs, 3) for request, n in sorted(changed.items())},
        "reads": {" ".join(request): round(n / jobs, 3) for request, n in sorted(reads.items())},
    }


def _names(jobs: int) -> list[str]:
    return [f"job-{number}" for number in range(jobs)]
