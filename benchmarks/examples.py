"""Trains the four examples on this machine and reports the metrics on held-out rows before and after, and the time.

    python benchmarks/examples.py        # writes benchmarks/examples.json and examples.md beside this file

Each training runs the command of the example's README, for example `finetune run examples/contracts/job.yaml
--workspace …`. The times are those of one run on one machine and include the start of all processes; compare them only
with each other.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
EXAMPLES = ("contracts/job.yaml", "clinical-notes/job.yaml", "shop/products.yaml", "shop/intent.yaml")


def main() -> int:
    results = []
    with tempfile.TemporaryDirectory() as workspace:
        for example in EXAMPLES:
            results.append(train(example, Path(workspace)))
            print(row(results[-1]))
    facts = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "examples": results}
    (ROOT / "benchmarks" / "examples.json").write_text(json.dumps(facts, indent=1) + "\n")
    head = "| example | metric | before | after | steps | seconds |\n|---|---|---|---|---|---|"
    (ROOT / "benchmarks" / "examples.md").write_text("\n".join([head, *map(row, results)]) + "\n")
    return 0


def train(example: str, workspace: Path) -> dict[str, Any]:
    """Make the data, train, and return what the run wrote."""
    manifest = ROOT / "examples" / example
    subprocess.run([sys.executable, manifest.parent / "make_data.py", "--workspace", workspace], check=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "finetune_operator.cli.main", "run", manifest, "--workspace", workspace]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    job = yaml.safe_load(manifest.read_text())
    (metrics,) = (workspace / "default" / job["metadata"]["name"]).glob("runs/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    by_split = {line["split"]: line for line in lines if "split" in line}
    return {
        "example": example,
        "metric": "perplexity" if job["spec"]["task"] == "CausalLM" else "accuracy",
        "before": by_split["base"]["metrics"],
        "after": by_split["final"]["metrics"],
        "steps": by_split["final"]["step"],
        "seconds": round(seconds, 1),
    }


def row(result: dict[str, Any]) -> str:
    """Render the result as a line of the table."""
    name = result["metric"]
    before, after = result["before"][name], result["after"][name]
    return (
        f"| {result['example']} | {name} | {before:.4g} | {after:.4g} | {result['steps']} | {result['seconds']:.0f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
