"""The GPU day: one command that measures in nine minutes how this trainer performs on a machine with one GPU.

python benchmarks/gpu/day.py --minutes 9 --out DIR                    # on a machine with a GPU
python benchmarks/gpu/day.py --device cpu --small --out DIR           # the same steps, tiny, on any machine
python benchmarks/gpu/day.py --table                                  # results.md, from the days in days/
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu_day import machine, schedule
from gpu_day.record import Record
from gpu_day.registry import STEPS
from gpu_day.step import Step
from gpu_day.table import MeasuredDay, markdown, step_table

HERE = Path(__file__).parent
WRONG = 2


class UsageError(Exception):
    """An error that the user can correct. The text is one sentence."""


def main() -> int:
    options = _options()
    try:
        if options.list:
            print("\n".join(f"{step.letter}  {step.seconds:4d} s  {step.title}" for step in STEPS))
            return 0
        return _table(options.days) if options.table else _day(options)
    except UsageError as error:
        print(f"day.py: {error}", file=sys.stderr)
        return WRONG


def _day(options: argparse.Namespace) -> int:
    steps = _chosen(options.only)
    if options.out is None:
        raise UsageError("--out is missing; name a folder for the JSON of the steps")
    if options.device == "cpu" and not options.small:
        raise UsageError("--device cpu takes hours at full size; add --small")
    if options.device == "cuda" and (shortage := schedule.too_short(steps, options.minutes)):
        raise UsageError(shortage)
    facts = _facts(options.device)
    commit, now = options.commit or _commit(), datetime.datetime.now(datetime.UTC)
    facts |= {"commit": commit, "date": now.isoformat(timespec="seconds"), "small": options.small}
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out: {options.out} cannot be made ({error.strerror}); name another folder") from None
    print(f"{facts.get('card', 'CPUs only')}, commit {commit}", flush=True)
    lines, records = [], []
    for step in steps:
        record = schedule.run_step(step, facts, options.out, options.device, options.small)
        records.append(record)
        lines.append(_line(step, record))
        print(f"\n{lines[-1]}\n{step_table(step, [('today', record)], only_measured=True)}", flush=True)
    print("\n".join(["", *lines]), flush=True)
    return int(any(record.failures or record.ended != schedule.FINISHED for record in records))


def _line(step: Step, record: Record) -> str:
    """Return one line about the step: how it ended, and what failed."""
    failures = "".join(f"; {row} failed: {reason}" for row, reason in record.failures.items())
    if record.ended != schedule.FINISHED and record.log.strip():
        failures += f"; its last line: {record.log.strip().splitlines()[-1][:300]}"
    measured = len(record.rows) - len(record.failures)
    whole = f"{measured} of {len(step.rows)} rows{failures}"
    return f"({step.letter}) {step.name} {record.ended} after {record.seconds:.0f} s: {whole}"


def _facts(device: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "gpu_day.machine"]
    asked = subprocess.run(command, env=schedule.environment(), capture_output=True, text=True)
    if asked.returncode != 0:
        last = (asked.stderr.strip() or "no output").splitlines()[-1]
        raise UsageError(f"the packages of this machine do not work together ({last}); install the pinned versions")
    found: dict[str, Any] = json.loads(asked.stdout.splitlines()[-1])
    if sentence := machine.problem(found, device):
        raise UsageError(sentence)
    return found


def _chosen(only: str | None) -> list[Step]:
    """Return the steps that --only names, in the day's order. Raises UsageError."""
    if only is None:
        return list(STEPS)
    letters = [letter.strip() for letter in only.split(",")]
    known = {step.letter for step in STEPS}
    if unknown := [letter for letter in letters if letter not in known]:
        raise UsageError(f"--only: there is no step '{unknown[0]}'; choose of {', '.join(sorted(known))}")
    return [step for step in STEPS if step.letter in letters]


def _commit() -> str:
    """Return the commit of the repository's HEAD, or "unknown" if this copy has no history."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty=+changes", "--abbrev=12", "--exclude=*"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return asked.stdout.strip() or "unknown"


def _table(folder: Path) -> int:
    """Write results.md beside this file. Raises UsageError if a file of a day is not a step's."""
    days = [path for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    try:
        measured = [day for day in map(MeasuredDay.read, days) if day.records]
    except ValueError as error:
        raise UsageError(str(error)) from None
    (HERE / "results.md").write_text(markdown(measured))
    print(f"{len(measured)} days are in {HERE / 'results.md'}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9, help="the time that a GPU day may take; 9 by default")
    parser.add_argument("--out", type=Path, help="a folder for the JSON of the steps")
    parser.add_argument("--only", metavar="a,b", help="these steps alone")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models and few rows, to try the day itself")
    parser.add_argument("--commit", help="what is measured, where the copy of the repository has no history")
    parser.add_argument("--list", action="store_true", help="list the steps and their time limits")
    parser.add_argument("--table", action="store_true", help="make results.md from the days that were measured")
    parser.add_argument("--days", type=Path, default=HERE / "days", help="the folder of days for --table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
