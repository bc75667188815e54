"""The fault scoreboard: the same job and the same faults under this trainer and under a plain Hugging Face script.

python benchmarks/faults/measure.py                              # writes results.json and results.md beside this file
python benchmarks/faults/measure.py --fault frozen-rank --side ours
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from fault_scoreboard.faults import FAULTS
from fault_scoreboard.hugging_face import HuggingFace
from fault_scoreboard.ours import Ours
from fault_scoreboard.outcome import Outcome
from fault_scoreboard.results import Results
from fault_scoreboard.run import run_fault
from fault_scoreboard.side import Side
from fault_scoreboard.table import markdown

HERE = Path(__file__).parent
SIDES: dict[str, Side] = {"ours": Ours(), "huggingface": HuggingFace()}


def main() -> int:
    options = _options()
    results = Results(options.output / "results.json", f"{platform.machine()}, {os.cpu_count()} cores")
    faults = [fault for fault in FAULTS if options.fault in (None, fault.name)]
    sides = [side for name, side in SIDES.items() if options.side in (None, name)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        for fault in faults:
            for side in sides:
                began = time.monotonic()
                outcome = run_fault(fault, side, folder)
                results.add(outcome)
                names = [side.name for side in SIDES.values()]
                (options.output / "results.md").write_text(markdown(results, names))
                seconds = time.monotonic() - began
                print(f"{fault.name}, {side.name}, {seconds:.0f} s: {_verdict(outcome)}", flush=True)
    return 0


def _verdict(outcome: Outcome) -> str:
    right = "right" if outcome.right else "wrong"
    return f"{right}: {outcome.why}, {outcome.equality.value or 'not compared'}, {outcome.steps_lost} steps lost"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fault", choices=[fault.name for fault in FAULTS], help="only this one")
    parser.add_argument("--side", choices=list(SIDES), help="only this one")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results.json and results.md")
    parser.add_argument("--keep", type=Path, help="a folder for logs and workspaces, which are removed otherwise")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
