"""The file of raw figures, and the tables that are made from it."""

import json
from pathlib import Path
from typing import Any

import pytest
from operator_benchmark.results import Case, Results, values
from operator_benchmark.table import FLOOR, GOALS, IDLE, RECOVER, START, markdown, ratios

MACHINE = {"machine": "one"}


def times(p50: float, last: float) -> dict[str, float]:
    return {"p50": p50, "p95": last, "last": last}


def started(last: float, **more: Any) -> dict[str, Any]:
    return {"running": times(last / 2, last), "writes_per_job": 20.0, "writes": {"a create pods": 4.0}, **more}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results.json", MACHINE)


def line(text: str, start: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    return found


def test_each_measurement_is_in_the_file_at_once(tmp_path: Path, results: Results) -> None:
    results.add(Case(FLOOR, 10), started(1.0))
    results.add(Case(FLOOR, 10), started(2.0))
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["machine"] == MACHINE
    assert [m["running"]["last"] for m in written["measurements"]] == [1.0, 2.0]


def test_a_later_run_replaces_what_it_measures_and_keeps_the_rest(tmp_path: Path, results: Results) -> None:
    for case in (Case(FLOOR, 10), Case(START, 10), Case(START, 100)):
        results.add(case, started(1.0))
    again = Results(tmp_path / "results.json", MACHINE)
    again.add(Case(START, 10), started(5.0))
    again.add(Case(START, 10), started(6.0))
    assert values(again.of(Case(START, 10)), "running", "last") == [5.0, 6.0]
    assert again.cases() == [Case(FLOOR, 10), Case(START, 10), Case(START, 100)]


def test_what_a_measurement_lacks_is_left_out() -> None:
    assert values([{"running": {"p50": 1}}, {"told": 2}, {"running": 3}], "running", "p50") == [1.0]


def test_a_ratio_is_of_the_floor_measured_beside_it(results: Results) -> None:
    for floor, ours in ((1.0, 2.0), (10.0, 11.0)):
        results.add(Case(FLOOR, 500), started(floor))
        results.add(Case(START, 500), started(ours))
    results.add(Case(FLOOR, 500), started(3.0))  # the run was interrupted before the matching measurement
    assert ratios(results, 500, "running", "last") == [2.0, 1.1]


def test_the_table_says_goal_measured_and_peer(results: Results) -> None:
    for floor, ours in ((1.0, 1.2), (1.0, 1.4), (2.0, 2.2)):
        results.add(Case(FLOOR, 500), started(floor))
        results.add(Case(START, 500), started(ours))
    assert line(markdown(results), "| last of 500 jobs running") == (
        "| last of 500 jobs running, times the floor | <= 1.3 | 1.20 (1.10–1.40), N=3 | 3.5 |"  # noqa: RUF001
    )


def test_a_goal_that_was_not_measured_says_so(results: Results) -> None:
    assert markdown(results).count("not measured") == len(GOALS)


def test_recovery_and_rest_have_tables_of_their_own(results: Results) -> None:
    results.add(Case(RECOVER, 50), {**started(3.0), "operator_cpu_ms": 90})
    results.add(Case(IDLE, 1000), {"rss_mib": 120.0, "writes_per_minute": 0.0})
    text = markdown(results)
    assert line(text, "| the same, 50 jobs at once, p95, s").split(" | ")[2] == "3.00 (3.00–3.00), N=1"  # noqa: RUF001
    assert line(text, "| API writes in an idle minute").split(" | ")[2].startswith("0.0 ")
    assert line(text, "| 1000 | 120.0")


def test_the_writes_of_all_clients_add_up(results: Results) -> None:
    results.add(Case(START, 10), started(1.0, writes={"a create pods": 4.0, "b patch pods": 1.0}, writes_per_job=5.0))
    results.add(Case(START, 10), started(1.0, writes={"a create pods": 4.0}, writes_per_job=4.0))
    text = markdown(results)
    assert line(text, "| b patch pods") == "| b patch pods | 0.5 |"
    assert line(text, "| **all**") == "| **all** | 4.5 (4.0–5.0) |"  # noqa: RUF001
