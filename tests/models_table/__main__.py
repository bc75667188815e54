"""Makes the rows that the table lacks: `python -m models_table`. Rows named as arguments are made again.

The program may be interrupted. When it is started again, it continues with the next missing row.
"""

from __future__ import annotations

import argparse
import os
import sys

from models_table.architectures import architectures
from models_table.left_out import LEFT_OUT
from models_table.making import make_row
from models_table.page import PAGE, page
from models_table.results import Results, Row
from trainer.worlds import Worlds

from finetune_trainer.contract import TASKS

MODELS_BEFORE_RENEWAL = 20
"""The number of models after which the processes that train and read are replaced by new ones."""


def main() -> int:
    """Make the rows and return 1 if a column failed."""
    options = _options()
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")
    results = Results()
    results.begin()
    made = {(row.task, row.architecture) for row in results.rows() if not (options.failed and row.failed)}
    wanted = [
        (task, architecture)
        for task in TASKS
        for architecture in architectures(task)
        if architecture not in LEFT_OUT
        and (architecture in options.architectures if options.architectures else (task, architecture) not in made)
    ]
    worlds = Worlds()
    failed = 0
    for number, (task, architecture) in enumerate(wanted, start=1):
        row = make_row(worlds, task, architecture)
        results.add(row)
        failed += row.failed
        print(f"{number} of {len(wanted)}: {_told(row)}", flush=True)
        if number % MODELS_BEFORE_RENEWAL == 0:
            worlds.close()
    worlds.close()
    results.tidy()
    PAGE.write_text(page(results.rows(), results.versions))
    return 1 if failed else 0


def _told(row: Row) -> str:
    ends = "; ".join(f"{column}: {outcome.ended}" for column, outcome in row.outcomes.items())
    return f"{row.task}, {row.architecture}, {row.seconds} s: {ends}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*", help="make the rows of these again, whatever is there")
    parser.add_argument("--failed", action="store_true", help="make the rows again that failed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
