"""Measures the cost of fault tolerance: a step against a bare DeepSpeed loop, and the start against a plain script.

python benchmarks/cost/measure.py --repetitions 5      # writes results.json and results.md beside this file
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "faults"))

from fault_scoreboard import workload  # noqa: E402  # the benchmarks are no package
from fault_scoreboard.hugging_face import HuggingFace  # noqa: E402
from fault_scoreboard.ours import Ours  # noqa: E402
from fault_scoreboard.pods import Pod  # noqa: E402
from fault_scoreboard.run import HOOK  # noqa: E402
from fault_scoreboard.side import Attempt, Command, Job, Side  # noqa: E402

from finetune_operator.local.ports import free_port  # noqa: E402
from finetune_trainer import contract  # noqa: E402
from finetune_trainer.agent import launch  # noqa: E402
from finetune_trainer.contract import RunConfig  # noqa: E402

STEPS, WARM_UP = 60, 20
WORLD = 2
OWN = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "GLOO_SOCKET_IFNAME": "lo"}
GOAL_STEP, GOAL_START = 1.05, 0.6


def main() -> int:
    options = _options()
    repetitions: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = _make(folder)
        for number in range(options.repetitions):
            bare, ours = _bare_step(folder, made), _our_step(folder, made)
            starts = {side.name: _first_step(side, folder / f"start-{number}") for side in (Ours(), HuggingFace())}
            repetitions.append(
                {"bare": bare, "ours": ours, "our_start": starts[Ours.name], "plain_start": starts[HuggingFace.name]}
            )
            print(json.dumps(repetitions[-1]), flush=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    (options.output / "results.json").write_text(
        json.dumps({"machine": machine, "repetitions": repetitions}, indent=1) + "\n"
    )
    (options.output / "results.md").write_text(markdown(repetitions))
    print(markdown(repetitions))
    return 0


def markdown(repetitions: Sequence[dict[str, float]]) -> str:
    """Render medians, lowest and highest values, and the ratios within each repetition."""
    rows = [
        ("a step of the bare loop, ms", [1000 * r["bare"] for r in repetitions], ""),
        ("a step of this trainer, ms", [1000 * r["ours"] for r in repetitions], ""),
        ("its step, times the bare one", [r["ours"] / r["bare"] for r in repetitions], f"<= {GOAL_STEP}"),
        ("start to first step, plain script, s", [r["plain_start"] for r in repetitions], ""),
        ("start to first step, this trainer, s", [r["our_start"] for r in repetitions], ""),
        ("its start, times the script's", [r["our_start"] / r["plain_start"] for r in repetitions], f"<= {GOAL_START}"),
    ]
    lines = ["| what | goal | measured |", "| --- | --- | --- |"]
    for what, values, goal in rows:
        told = f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g}), N={len(values)}"
        lines.append(f"| {what} | {goal} | {told} |")
    return "\n".join(lines) + "\n"


# ---- a step ---------------------------------------------------------------------------------------------------------


def _make(folder: Path) -> RunConfig:
    """Make a wide Llama and its rows, and return a run that is shorter than an epoch."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    workload.make(folder / "data", is_spoilt=False)
    base = folder / "wide"
    shutil.copytree(workload.base_of(folder / "data"), base)
    vocabulary = json.loads((base / "config.json").read_text())
    torch.manual_seed(5)
    shape = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
    tokens = {name: vocabulary[name] for name in ("vocab_size", "eos_token_id", "pad_token_id")}
    LlamaForCausalLM(LlamaConfig(**shape, **tokens, bos_token_id=None)).save_pretrained(base)
    rows = workload.rows_of(folder / "data")
    rows.write_text(rows.read_text() * 4)
    return RunConfig(
        namespace="cost",
        job="cost",
        uid="abcdef12",
        run=1,
        attempt=1,
        nonce="nonce",
        folder="run",
        task="CausalLM",
        model=contract.Source(uri=f"file://{base}"),
        dataset=contract.Dataset(
            source=contract.Source(uri=f"file://{rows}"),
            columns=contract.Columns(text="text"),
            evaluation_source=contract.Source(uri=f"file://{workload.evaluation_of(folder / 'data')}"),
            max_leak_fraction=1.0,  # there are few different rows, so they repeat
        ),
        training=contract.Training(
            max_steps=STEPS,
            global_batch_size=16,
            micro_batch_size=4,
            sequence_length=32,
            learning_rate=1e-4,
            schedule="linear",
            warmup_fraction=0.1,
            weight_decay=0.0,
            max_grad_norm=1.0,
            precision="fp32",
            seed=17,
        ),
        zero_stage=2,
        world=contract.World(nodes=1, processes_per_node=WORLD, device="cpu"),
        metrics=("perplexity",),
        checkpoint=contract.Checkpointing(every_seconds=900, keep=3),
    )


def _our_step(folder: Path, config: RunConfig) -> float:
    """Return the median seconds between the ends of two steps of this trainer, with all overhead."""
    workspace = folder / "workspace"
    shutil.rmtree(workspace, ignore_errors=True)
    run_json, scratch = _written(folder, config), folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    variables = {
        contract.ENV_RUN_CONFIG: str(run_json),
        contract.ENV_WORKSPACE: str(workspace),
        contract.ENV_CLAIMS: str(folder),
        contract.ENV_SCRATCH: str(scratch),
    }
    _torchrun(["-m", launch.RANK_MODULE], variables)
    records = [json.loads(line) for line in (workspace / "run" / "metrics.jsonl").read_text().splitlines()]
    times = [record["time"] for record in records if "split" not in record]
    return statistics.median(
        after - before for before, after in zip(times[WARM_UP:], times[WARM_UP + 1 :], strict=False)
    )


def _bare_step(folder: Path, config: RunConfig) -> float:
    """Return the median seconds of a step of the bare loop.

    It uses rows that this trainer has prepared, so this trainer's run comes first.
    """
    workspace = folder / "workspace"
    if not workspace.exists():
        _our_step(folder, config)
    script = [str(HERE / "bare_loop.py"), str(_written(folder, config)), str(workspace)]
    seconds: list[float] = json.loads(_torchrun(script, {}).splitlines()[-1])["seconds"]
    return statistics.median(seconds[WARM_UP:])


def _written(folder: Path, config: RunConfig) -> Path:
    path = folder / "run.json"
    path.write_text(config.to_json())
    return path


def _torchrun(arguments: list[str], variables: dict[str, str]) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(WORLD)]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), *arguments]
    done = subprocess.run(command, env=os.environ | OWN | variables, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    return done.stdout


# ---- the start ------------------------------------------------------------------------------------------------------


def _first_step(side: Side, folder: Path) -> float:
    """Return the seconds from the start of the pod's first process to the end of the first step, with one rank."""
    job = Job(folder / side.name.split()[0], None)
    for path in (job.workspace, job.steps):
        path.mkdir(parents=True)
    workload.make(job.data, is_spoilt=False)
    command = side.command(job, Attempt(1, world=1), 0)
    hook: dict[str, Any] = {"PYTHONPATH": HOOK, "FAULT_FOLDER": job.folder, "FAULT_ATTEMPT": 1, "FAULT_ACT": ""}
    hook |= {"FAULT_STEP": 0, "FAULT_MEMORY_LIMIT_ROWS": 0, "FAULT_FULL_SECONDS": 0}
    environment = command.environment | {name: str(value) for name, value in hook.items()}
    began = time.time()
    pod = Pod(Command(command.arguments, environment), job.log(1, 0))
    try:
        while not (lines := [line for path in job.steps.iterdir() for line in path.read_text().splitlines()]):
            if pod.exit_code is not None:
                raise RuntimeError(job.log(1, 0).read_text()[-4000:])
            time.sleep(0.02)
        return float(lines[0]) - began
    finally:
        pod.kill()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results.json and results.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
