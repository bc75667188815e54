"""The twelve faults, the file of outcomes, and the table made from it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fault_scoreboard.faults import FAULTS, INSIDE, Act, fault_named
from fault_scoreboard.outcome import Ending, Equality, Outcome
from fault_scoreboard.results import Results
from fault_scoreboard.table import markdown

OUTCOME = Outcome(
    fault="pod-killed",
    side="a",
    right=True,
    why="finished",
    ending=Ending.FINISHED,
    equality=Equality.BITS,
    loss=1.5,
    steps_lost=5,
    seconds_until_training=9.24,
    seconds=30.0,
    exit_codes=[[1, -9], [0, 0]],
    last_words=["pod 0: Error: a|b\nc", ""],
)


def line(text: str, start: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    return found


def test_there_are_twelve_faults_and_each_act_is_one_of_them() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == 12
    assert {fault.act for fault in FAULTS} == set(Act)


def test_acts_of_the_inside_have_the_words_of_the_hook() -> None:
    hook = (Path(__file__).parents[3] / "benchmarks" / "faults" / "rank_hook" / "sitecustomize.py").read_text()
    for act in Act:
        assert (f'"{act.value}"' in hook) == (act in INSIDE), act


def test_a_fault_is_found_by_its_name() -> None:
    assert fault_named("frozen-rank").act is Act.FREEZE
    with pytest.raises(ValueError, match="no fault 'frozen'; choose of rank-killed, "):
        fault_named("frozen")


def test_a_later_outcome_replaces_the_former_and_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results = Results(path, "machine")
    results.add(OUTCOME)
    results.add(replace(OUTCOME, side="b"))
    again = Results(path, "machine")
    again.add(replace(OUTCOME, right=False))
    written = json.loads(path.read_text())
    assert written["machine"] == "machine"
    assert [(one["side"], one["right"]) for one in written["outcomes"]] == [("a", False), ("b", True)]
    assert again.of("pod-killed", "b") == written["outcomes"][1]


def test_the_table_has_a_row_for_each_fault_and_the_sides_beside_each_other(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json", "machine")
    results.add(OUTCOME)
    wrong = replace(OUTCOME, side="b", right=False, why="hung", equality=Equality.NOT_COMPARED)
    results.add(replace(wrong, seconds_until_training=None))
    text = markdown(results, ["a", "b"])
    assert text.startswith("Ended rightly: a 1 of 1, b 0 of 1.")
    cells = "yes | finished | bit-equal | 5 | 9.2 s | **no** | hung |  | 5 | never |"
    assert line(text, "| SIGKILL to all processes of a pod") == f"| SIGKILL to all processes of a pod | {cells}"
    assert line(text, "| SIGKILL to one rank").count("not measured") == 2


def test_last_words_stay_within_their_cell(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json", "machine")
    results.add(OUTCOME)
    text = markdown(results, ["a"])
    assert line(text, "| pod-killed | 1") == "| pod-killed | 1 | 1, -9 | pod 0: Error: a\\|b c |"
