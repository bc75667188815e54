"""The figures as Markdown: goals first, then times, then the writes of each client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from operator_benchmark.percentiles import spread
from operator_benchmark.results import Case, Measurement, Results, values

FLOOR, FLOOR_RANK_0, START, RECOVER, IDLE = "floor", "floor-rank-0", "start", "recover", "idle"

PEER = "Kubeflow Trainer"
PEER_RUNNING = {10: (1.07, 2.2), 100: (10.6, 23.3), 500: (64.4, 134.9)}
"""The peer's times: p50 and last, in seconds, until all pods of a job run, by number of jobs."""
PEER_WRITES = {10: 32.6, 100: 30.7, 500: 30.2}


@dataclass(frozen=True)
class Goal:
    """A row of the first table."""

    what: str
    goal: str
    peer: str
    measured: Callable[[Results], Sequence[float]]
    """The measured figures, one for each repetition."""
    digits: int = 2


def ratios(results: Results, jobs: int, *path: str) -> list[float]:
    """Return the ratio of each repetition to the floor in the same repetition."""
    ours, floor = (values(results.of(Case(scenario, jobs)), *path) for scenario in (START, FLOOR))
    return [a / b for a, b in zip(ours, floor, strict=False)]  # an interrupted run may lack the last floor or start


def _of(scenario: str, jobs: int, *path: str) -> Callable[[Results], Sequence[float]]:
    return lambda results: values(results.of(Case(scenario, jobs)), *path)


GOALS = (
    Goal("last of 500 jobs running, times the floor", "<= 1.3", "3.5", lambda r: ratios(r, 500, "running", "last")),
    Goal("p50 of 100 jobs running, times the floor", "<= 1.3", "2.5", lambda r: ratios(r, 100, "running", "p50")),
    Goal("API writes per job until running, 500 jobs", "<= 24", "30.2", _of(START, 500, "writes_per_job"), 1),
    Goal("operator's CPU per job, ms, 500 jobs", "<= 80", "40", _of(START, 500, "operator_cpu_ms"), 0),
    Goal("a pod failed: new gang runs, 1 job, s", "<= 1.0", "2.36", _of(RECOVER, 1, "running", "p50")),
    Goal("the same, 50 jobs at once, p95, s", "<= 4", "16.6", _of(RECOVER, 50, "running", "p95")),
    Goal("API writes per recovered job, 50 jobs", "<= 30", "61", _of(RECOVER, 50, "writes_per_job"), 1),
    Goal("RSS with 1,000 finished jobs, MiB", "<= 190", "212, with 500", _of(IDLE, 1000, "rss_mib"), 0),
    Goal("API writes in an idle minute, without leases", "0", "", _of(IDLE, 1000, "writes_per_minute"), 1),
)


def markdown(results: Results) -> str:
    """Render all tables. Figures that were not measured are marked as such."""
    parts = [
        _table(
            ("what", "goal", "measured", PEER),
            ((g.what, g.goal, _spread(g.measured(results), g.digits), g.peer) for g in GOALS),
        ),
        "## Seconds from the create call",
        _table(
            (
                "jobs",
                "",
                "all pods created p50 / p95 / last",
                "running p50 / p95 / last",
                "status says so",
                f"{PEER}: running",
            ),
            _times(results),
        ),
        "## Seconds from the failure of one pod",
        _table(
            ("jobs", "new pods created p50 / p95 / last", "running p50 / p95 / last", "status says so"),
            (row[:1] + row[2:5] for row in _times_of(results, (RECOVER,))),
        ),
        "## CPU and memory",
        _table(
            (
                "",
                "jobs",
                "operator's CPU per job, ms",
                "and per minute of silent agents",
                "generator's",
                "peak RSS, MiB",
            ),
            _usage(results),
        ),
        "## A minute at rest",
        _table(("finished jobs", "RSS, MiB", "CPU, ms", "writes", "all requests"), _idle(results)),
        "## API writes per job, by client",
        *_writes(results),
    ]
    return "\n\n".join(parts) + "\n"


def _times(results: Results) -> Iterable[tuple[str, ...]]:
    for row in _times_of(results, (FLOOR, FLOOR_RANK_0, START)):
        peer = PEER_RUNNING.get(int(row[0]))
        yield (*row, f"{peer[0]} / ? / {peer[1]}" if peer and row[1] == START else "")


def _times_of(results: Results, scenarios: Sequence[str]) -> Iterable[tuple[str, ...]]:
    for case in sorted(results.cases(), key=lambda case: case.jobs):
        if case.scenario in scenarios:
            found = results.of(case)
            yield (
                str(case.jobs),
                case.scenario,
                *(_three(found, what) for what in ("created", "running", "told")),
            )


def _three(found: Sequence[Measurement], what: str) -> str:
    texts = [_spread(values(found, what, part), 2, narrow=True) for part in ("p50", "p95", "last")]
    return " / ".join(texts) if any(texts) else ""


def _usage(results: Results) -> Iterable[tuple[str, ...]]:
    for case in results.cases():
        if case.scenario != IDLE:
            found = results.of(case)
            names = ("operator_cpu_ms", "waiting_cpu_ms_per_minute", "generator_cpu_ms", "peak_rss_mib")
            yield (case.scenario, str(case.jobs), *(_spread(values(found, name), 0, narrow=True) for name in names))


def _idle(results: Results) -> Iterable[tuple[str, ...]]:
    names = ("rss_mib", "cpu_ms_per_minute", "writes_per_minute", "requests_per_minute")
    for case in results.cases():
        if case.scenario == IDLE:
            yield (str(case.jobs), *(_spread(values(results.of(case), name), 1) for name in names))


def _writes(results: Results) -> Iterable[str]:
    """Yield a table for each scenario. Its columns are numbers of jobs."""
    for scenario in (FLOOR, FLOOR_RANK_0, START, RECOVER):
        sizes = sorted(case.jobs for case in results.cases() if case.scenario == scenario)
        if not sizes:
            continue
        found = {jobs: results.of(Case(scenario, jobs)) for jobs in sizes}
        names = sorted({name for measured in found.values() for m in measured for name in m["writes"]})
        rows = [(name, *(_mean(found[jobs], name) for jobs in sizes)) for name in names]
        totals = (_spread(values(found[jobs], "writes_per_job"), 1, narrow=True) for jobs in sizes)
        yield _table((scenario, *(f"{jobs} jobs" for jobs in sizes)), [*rows, ("**all**", *totals)])


def _mean(found: Sequence[Measurement], name: str) -> str:
    """Return the mean of the repetitions.

    A repetition without such writes counts as 0, so that parts add up to the total.
    """
    return f"{sum(m['writes'].get(name, 0.0) for m in found) / len(found):.1f}"


def _spread(numbers: Sequence[float], digits: int, narrow: bool = False) -> str:
    """Render median, lowest and highest. `narrow` leaves out the number of repetitions."""
    if not numbers:
        return "" if narrow else "not measured"
    found = spread(numbers)
    text = f"{found.median:.{digits}f} ({found.lowest:.{digits}f}–{found.highest:.{digits}f})"  # noqa: RUF001
    return text if narrow else f"{text}, N={found.repetitions}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
