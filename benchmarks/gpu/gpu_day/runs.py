"""The run.json of one rank on this machine, and starting that rank as a pod's agent would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from finetune_trainer import contract
from finetune_trainer.contract import RankExit, RunConfig
from finetune_trainer.pod.paths import Paths
from gpu_day.models import Family
from gpu_day.schedule import environment

HOOK = Path(__file__).parent / "rank_hook"
RUN_FOLDER = "runs/1-abcdef12"
LORA = contract.Lora(rank=8, alpha=16, dropout=0.0)
RECIPE: dict[str, Any] = {
    "max_steps": 6,
    "global_batch_size": 8,
    "micro_batch_size": 8,
    "sequence_length": 512,
    "learning_rate": 1e-3,
    "schedule": "linear",
    "warmup_fraction": 0.0,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "precision": "bf16",
    "seed": 17,
}


def run_config(
    family: Family,
    model: Path,
    rows: Path,
    evaluation: Path,
    device: str,
    *,
    stage: int = 2,
    lora: contract.Lora | None = None,
    attempt: int = 1,
    **training: Any,
) -> RunConfig:
    """Return a run of one rank. `training` changes the recipe."""
    return RunConfig(
        namespace="gpu-day",
        job="day",
        uid="abcdef12",
        run=1,
        attempt=attempt,
        nonce="nonce",
        folder=RUN_FOLDER,
        task=family.task,  # type: ignore[arg-type]
        model=contract.Source(uri=f"file://{model}"),
        dataset=contract.Dataset(
            source=contract.Source(uri=f"file://{rows}"),
            columns=contract.Columns(**family.columns),
            evaluation_source=contract.Source(uri=f"file://{evaluation}"),
            max_leak_fraction=1.0,  # there are few different rows, so they repeat
        ),
        lora=lora,
        training=contract.Training(**{**RECIPE, **training}),
        zero_stage=stage,  # type: ignore[arg-type]
        world=contract.World(nodes=1, processes_per_node=1, device=device),  # type: ignore[arg-type]
        metrics=("perplexity",) if family.task == "CausalLM" else ("accuracy",),
        checkpoint=contract.Checkpointing(every_seconds=3600, keep=3),
    )


def paths_in(folder: Path) -> Paths:
    """Make a workspace, a claims folder and a scratch folder."""
    paths = Paths(workspace=folder / "workspace", claims=folder / "claims", scratch=folder / "scratch")
    for path in (paths.workspace, paths.claims, paths.scratch):
        path.mkdir(parents=True, exist_ok=True)
    return paths


def one_rank(port: int) -> dict[str, str]:
    """Return the variables that make a process the only rank of a world."""
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "0"}
    return place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def run_rank(config: RunConfig, paths: Paths, port: int, **hook: object) -> RankExit:
    """Run the trainer's rank to its end and return its exit file.

    `hook` has variables for the rank's hook, by their names without the prefix. Raises RuntimeError with the last line
    of output if the rank leaves no exit file.
    """
    run_json = paths.scratch / "run.json"
    run_json.write_text(config.to_json())
    for file in (contract.STOP_FILE, contract.rank_exit_file(0)):
        (paths.scratch / file).unlink(missing_ok=True)
    variables = one_rank(port) | {
        contract.ENV_RUN_CONFIG: str(run_json),
        contract.ENV_WORKSPACE: str(paths.workspace),
        contract.ENV_CLAIMS: str(paths.claims),
        contract.ENV_SCRATCH: str(paths.scratch),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "finetune_trainer.rank"]
    variables |= hook_variables(**hook)
    done = subprocess.run(
        command, env=environment() | variables, capture_output=True, text=True, errors="replace", check=False
    )
    file = paths.scratch / contract.rank_exit_file(0)
    if not file.exists():
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise RuntimeError(f"the rank ended with exit code {done.returncode} and no word: {last}")
    ended = RankExit.model_validate_json(file.read_bytes())
    if ended.exit_code not in (contract.ExitCode.DONE, contract.ExitCode.PREEMPTED):
        print(done.stderr[-4000:])
    return ended


def hook_variables(**hook: object) -> dict[str, str]:
    """Return the environment that loads the rank's hook."""
    path = os.pathsep.join([str(HOOK), environment()["PYTHONPATH"]])
    return {"PYTHONPATH": path, **{f"GPU_DAY_{name.upper()}": str(value) for name, value in hook.items()}}
