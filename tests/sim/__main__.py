"""Simulates many schedules on all cores, or one seed's schedule with its whole trace.

python -m sim --schedules 10000        (from tests/; `make sim N=10000`)
python -m sim --seed 123               (`make sim SEED=123`)
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time

from sim.schedule import Schedule, ViolationError, simulate

FAILURES_SHOWN = 10


def _failure(seed: int) -> tuple[int, str | None]:
    try:
        simulate(seed)
    except ViolationError as error:
        return seed, str(error)
    return seed, None


def many(first: int, schedules: int) -> int:
    """Simulate the schedules and return exit code 1 if one of them fails."""
    began, failures = time.monotonic(), []
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for done, (seed, failure) in enumerate(pool.imap_unordered(_failure, range(first, first + schedules), 25), 1):
            if failure:
                failures.append(seed)
                if len(failures) <= FAILURES_SHOWN:
                    print(failure, end="\n\n", flush=True)
            if done % 1000 == 0:
                print(f"{done} of {schedules} schedules, {len(failures)} failures", flush=True)
    print(f"{schedules} schedules in {time.monotonic() - began:.0f} s; failures: {sorted(failures) or 'none'}")
    return 1 if failures else 0


def one(seed: int) -> int:
    """Simulate one schedule, print its whole trace and return exit code 1 if it fails."""
    schedule = Schedule(seed)
    try:
        schedule.run()
    except ViolationError as error:
        print(schedule.trace.text())
        print(f"seed {seed}: {error}")
        return 1
    print(schedule.trace.text())
    print(f"seed {seed}: no violation")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="sim")
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    parser.add_argument("--seed", type=int, help="play the schedule of this seed alone, and print its trace")
    options = parser.parse_args()
    return one(options.seed) if options.seed is not None else many(options.first, options.schedules)


if __name__ == "__main__":
    sys.exit(main())
