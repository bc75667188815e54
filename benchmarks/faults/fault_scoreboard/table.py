"""The scoreboard as Markdown: one row for each fault, the sides beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fault_scoreboard.faults import FAULTS, Act, Fault
from fault_scoreboard.results import Results

HEADS = ("right", "how it ended", "same model", "steps lost", "training again after")


def markdown(results: Results, sides: Sequence[str]) -> str:
    """Render the score, the table and the failure messages of each attempt."""
    score = ", ".join(f"{side} {_score(results, side)}" for side in sides)
    head = ["fault", *(f"{side}: {name}" for side in sides for name in HEADS)]
    rows = [[fault.what, *(cell for side in sides for cell in _cells(results, fault, side))] for fault in FAULTS]
    parts = [f"Ended rightly: {score}.", _table(head, rows), "## Exit codes and last words", *_endings(results, sides)]
    return "\n\n".join(parts) + "\n"


def _score(results: Results, side: str) -> str:
    found = [one for fault in FAULTS if (one := results.of(fault.name, side))]
    return f"{sum(one['right'] for one in found)} of {len(found)}"


def _cells(results: Results, fault: Fault, side: str) -> list[str]:
    one = results.of(fault.name, side)
    if one is None:
        return ["not measured", *[""] * (len(HEADS) - 1)]
    seconds = one["seconds_until_training"]
    again = "never" if seconds is None else f"{seconds:.1f} s"
    return [
        "yes" if one["right"] else "**no**",
        one["why"],
        one["equality"],
        str(one["steps_lost"]),
        again if fault.act is not Act.SPOIL_ROW else "",
    ]


def _endings(results: Results, sides: Sequence[str]) -> Iterable[str]:
    for side in sides:
        rows = []
        for fault in FAULTS:
            if one := results.of(fault.name, side):
                rows += [[fault.name, *words] for words in _attempts(one)]
        yield _table(["fault", f"{side}: attempt", "exit codes of the pods", "last words"], rows)


def _attempts(outcome: dict[str, Any]) -> Iterable[list[str]]:
    for number, (codes, words) in enumerate(zip(outcome["exit_codes"], outcome["last_words"], strict=True), start=1):
        yield [str(number), ", ".join(map(str, codes)), words.replace("|", "\\|").replace("\n", " ")]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
