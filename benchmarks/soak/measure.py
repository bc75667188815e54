"""The soak: a long training on a real cluster with fifty random faults, compared with the model of an undisturbed one.

python benchmarks/soak/measure.py --faults 50 --seed 1      # writes results.json and results.md beside this file

It needs KUBECONFIG; the pods are those of `make test-cluster`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from cluster.conftest import add_packages, new_namespace, new_workspace  # noqa: E402  # the tests are no package
from cluster.disturbed import Disturbed, prepare  # noqa: E402
from cluster.faults import Operator  # noqa: E402
from support.kubectl import Kubectl  # noqa: E402

FAULTS: dict[str, tuple[Callable[[Disturbed, int], None], int]] = {
    "a rank killed": (Disturbed.kill_rank, 4),
    "a pod killed": (Disturbed.kill_pod, 3),
    "rank 0's pod killed": (Disturbed.kill_first_pod, 3),
    "a pod deleted": (Disturbed.terminate_one, 4),
    "all pods deleted": (Disturbed.terminate_all, 3),
    "rank 0's pod evicted": (Disturbed.evict, 3),
    "suspended and resumed": (Disturbed.suspend, 2),
    "all killed, newest checkpoint truncated": (Disturbed.truncate_newest, 2),
    "a rank killed, newest manifest deleted": (Disturbed.delete_checkpoint, 2),
    "a rank frozen": (Disturbed.freeze_rank, 1),
}
"""The faults: the function that causes one, and its weight in the random choice."""
MOST_STEPS_BETWEEN = 40
STEPS_OF_A_FAULT = 80
"""The number of steps by which the training is longer for each fault."""
LONGEST_STEP_SECONDS = 0.5
"""The longest duration of a step, on a machine that has other work."""


def main() -> int:
    options = _options()
    chance = random.Random(options.seed)
    steps = 300 + STEPS_OF_A_FAULT * options.faults
    with _job_maker() as (kubectl, workspace):
        whole = Disturbed(kubectl, workspace, "undisturbed")
        whole.start(steps)
        expected = whole.complete(steps * LONGEST_STEP_SECONDS)
        job = Disturbed(kubectl, workspace, "soak")
        job.start(steps)
        done = [_disturb(job, number, chance) for number in range(1, options.faults + 1)]
        complete = job.complete(steps * LONGEST_STEP_SECONDS)
        losses = [[record["loss"] for record in one.records()] for one in (whole, job)]
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seed": options.seed,
        "steps": steps,
        "bit_equal": complete["result"]["digest"] == expected["result"]["digest"],
        "losses_equal": losses[0] == losses[1],
        "final": complete["evaluation"]["final"],
        "undisturbed": expected["evaluation"]["final"],
        "classes": _count(fault["class"] for fault in done),
        "faults": done,
    }
    (options.output / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.output / "results.md").write_text(markdown(result))
    print(markdown(result))
    return 0 if result["bit_equal"] and result["losses_equal"] else 1


def _disturb(job: Disturbed, attempt: int, chance: random.Random) -> dict[str, Any]:
    """Cause one fault after the attempt has trained for a while, and return how the operator handled it."""
    (name,) = chance.choices(list(FAULTS), [weight for _, weight in FAULTS.values()])
    at = job.trained(attempt, chance.randint(1, MOST_STEPS_BETWEEN))
    began = time.monotonic()
    FAULTS[name][0](job, attempt)
    status = job.until(lambda s: s["run"]["attempt"] > attempt)
    entry = next(entry for entry in status["ledger"] if entry["attempt"] == attempt)
    job.trained(attempt + 1, 1)
    seconds = time.monotonic() - began
    told = {"fault": name, "step": at, "class": entry["class"], "seconds": round(seconds, 1)}
    print(json.dumps(told), flush=True)
    return told


def _count(classes: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in classes:
        counts[name] = counts.get(name, 0) + 1
    return counts


def markdown(result: dict[str, Any]) -> str:
    """Render the table with a row for each kind of fault, and the comparison of the models."""
    rows = []
    for name in FAULTS:
        of_kind = [fault for fault in result["faults"] if fault["fault"] == name]
        if of_kind:
            seconds = [fault["seconds"] for fault in of_kind]
            spread = f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
            classes = ", ".join(sorted({fault["class"] for fault in of_kind}))
            rows.append(f"| {name} | {len(of_kind)} | {classes} | {spread} |")
    verdict = "equal bit by bit" if result["bit_equal"] else "**different**"
    losses = "equal in every step" if result["losses_equal"] else "**different**"
    done = f"{len(result['faults'])} faults in one training of {result['steps']} steps (seed {result['seed']})"
    final, undisturbed = (json.dumps(result[name]) for name in ("final", "undisturbed"))
    lines = [
        f"{done}: the final weights and those of the undisturbed training are {verdict}, the losses {losses}.",
        "",
        f"Final metrics: `{final}`; undisturbed: `{undisturbed}`.",
        "",
        "| fault | times | classes in the ledger | seconds until all ranks trained again |",
        "| --- | --- | --- | --- |",
        *rows,
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def _job_maker() -> Iterator[tuple[Kubectl, Path]]:
    """Yield a namespace that has a claim, data and an operator."""
    with (
        new_namespace() as kubectl,
        new_workspace(kubectl) as workspace,
        tempfile.TemporaryDirectory() as scratch,
    ):
        add_packages(workspace)
        prepare(workspace)
        operator = Operator([kubectl.namespace], Path(scratch))
        operator.start()
        try:
            yield kubectl, workspace
        finally:
            operator.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results.json and results.md")
    options = parser.parse_args()
    if "KUBECONFIG" not in os.environ:
        parser.error("set KUBECONFIG to a cluster whose namespaces you may create")
    subprocess.run(
        ["kubectl", "apply", "--server-side", "--force-conflicts", "-f", str(HERE.parents[1] / "crds")], check=True
    )
    return options


if __name__ == "__main__":
    sys.exit(main())
