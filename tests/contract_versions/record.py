"""Records what this release writes and reads, for the tests of later releases.

    PYTHONPATH=tests python tests/contract_versions/record.py v1

Run it once for each contract version, at its release, and never change the files afterwards: they represent images and
operators in use. Each file holds texts as they were sent, and with each text the fields that it meant at that time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.core.run.resolve import run_config
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_operator.core.times import from_text
from finetune_operator.manifests.children import children
from finetune_trainer.contract import (
    CLASS_OF_EXIT_CODE,
    CheckpointReport,
    ExitCode,
    Message,
    Phase,
    PodStatus,
    Progress,
    RankStatus,
    Result,
    RunConfig,
    TerminationMessage,
)

FOLDER = Path(__file__).parent
NOW = from_text("2026-01-01T00:00:00Z")
IMAGE = "registry.example/trainer:recorded"
DIGEST = "ab" * 32

JOBS: dict[str, dict[str, Any]] = {
    "smallest": {},
    "full-on-gpus": {
        "spec.method": {"type": "Full"},
        "spec.resources": {"nodes": 4, "gpusPerNode": 8},
        "spec.deepspeed": {"zeroStage": 3, "config": {"communication_data_type": "fp32"}},
        "spec.training": {"maxSteps": 700, "globalBatchSize": 256, "seed": 3, "schedule": "cosine"},
    },
    "language-model": {
        "spec.task": "CausalLM",
        "spec.model": {"uri": "hf://owner/name", "revision": "main"},
        "spec.dataset": {
            "uri": "hf://owner/rows",
            "revision": "v2",
            "columns": {"messages": "messages"},
            "evaluation": {"uri": "pvc://other/rows.parquet"},
        },
        "spec.method": {"type": "LoRA", "rank": 64, "alpha": 16, "dropout": 0.1, "targetModules": ["q_proj"]},
        "spec.output": {"merge": True},
    },
    "pictures": {
        "spec.task": "ImageClassification",
        "spec.dataset": {"uri": "workspace://pictures", "columns": {"image": "image", "label": "label"}},
        "spec.evaluate": {"metrics": ["f1"]},
        "spec.checkpoint": {"everyMinutes": 5, "keep": 2},
        "spec.faultTolerance": {"hangMinutes": 45},
    },
    "prompts": {
        "spec.task": "CausalLM",
        "spec.dataset": {"uri": "workspace://rows.csv", "columns": {"prompt": "note", "completion": "summary"}},
        "spec.training": {"precision": "bf16", "epochs": 1, "sequenceLength": 4096, "learningRate": 1e-5},
    },
}
AFTER_MEMORY_RAN_OUT = {"attempt": 2, "micro_batch_size": 2, "activation_checkpointing": True}

CHECKPOINT = CheckpointReport(step=40, time=1.7e9, bytes=9_000_000, save_seconds=2.5, request="now", failure="/w: full")
PROGRESS = Progress(
    step=41, total_steps=100, epoch=0.41, loss=0.7, learning_rate=1e-4, tokens_per_second=900.0, samples_per_second=9.0,
    eta_seconds=60.0, step_seconds=1.0, skipped_steps=2, skipped_in_row=1, loss_spikes=3, slowest_rank=1, slowness=1.8,
)  # fmt: skip
RESULT = Result(
    path="default/clauses/runs/1-0b5e/output", digest=DIGEST, base_metrics={"f1": 0.1}, metrics={"f1": 0.9}, step=100,
    trainable_parameters=10, parameters=1000, merged_path="default/clauses/runs/1-0b5e/output/merged",
)  # fmt: skip
POD: dict[str, Any] = {"pod_uid": "pod", "attempt": 1, "nonce": "nonce", "index": 0}


def runs() -> dict[str, Any]:
    """Return for each job its manifest and two run.json files with their digests.

    The first is that of the job's first attempt, the second that of an attempt after memory ran out.
    """
    settings = Settings(image=IMAGE, allow_remote_code=True)
    recorded = {}
    for name, changes in JOBS.items():
        written = manifest(**{"metadata.uid": "0b5e-1", "metadata.generation": 1, **changes})
        job = parse(written)
        first = next_run(job, 1, settings, "nonce", NOW)
        second = first.model_copy(update=AFTER_MEMORY_RAN_OUT)
        configs = [run_config(job, run, settings) for run in (first, second)]
        recorded[name] = {
            "manifest": written,
            "runs": [run.model_dump(mode="json", by_alias=True, exclude_none=True) for run in (first, second)],
            "run.json": [config.to_json() for config in configs],
            "digests": [config.digest for config in configs],
        }
    return recorded


def pod() -> dict[str, Any]:
    """Return the part of a pod's specification on which the agent depends."""
    settings = Settings(image=IMAGE)
    job = parse(manifest(**{"metadata.uid": "0b5e-1", "metadata.generation": 1}))
    *_, (_, made) = children(job, next_run(job, 1, settings, "nonce", NOW), settings)
    container = made["spec"]["template"]["spec"]["containers"][0]
    return {
        "command": container["command"],
        "env": container["env"],
        "volumeMounts": container["volumeMounts"],
        "terminationMessagePath": container["terminationMessagePath"],
    }


def answers() -> dict[str, Any]:
    """Return answers to GET /status.

    They come from pods before the ranks have met and in each phase, and from pods with and without rank 0.
    """

    def rank(number: int, phase: Phase) -> RankStatus:
        return RankStatus(
            rank=number, world=4, config_digest=DIGEST, backend="gloo", zero_stage=2, phase=phase, step=41,
            heartbeat=1.7e9,
        )  # fmt: skip

    phases = [phase for phase in Phase if phase is not Phase.OTHER]
    said = {phase.value: PodStatus(**POD, ranks=(rank(0, phase), rank(1, phase))) for phase in phases}
    said["alone"] = PodStatus(**POD)
    said["reports"] = said["train"].model_copy(update={"progress": PROGRESS, "checkpoint": CHECKPOINT})
    said["began"] = said["train"].model_copy(update={"progress": Progress(step=0, total_steps=100, epoch=0.0)})
    said["second-pod"] = PodStatus(**{**POD, "index": 1}, ranks=(rank(2, Phase.TRAIN), rank(3, Phase.TRAIN)))
    return {name: _meant(answer) for name, answer in said.items()}


def endings() -> dict[str, Any]:
    """Return termination messages.

    There is one for each exit code that stands for a failure, one for success, and one of a pod that did not know its
    run yet.
    """
    attested = {"world": 4, "config_digest": DIGEST, "step": 41, "checkpoint": CHECKPOINT}
    told = {"failing_rank": 1, "error": "Rank 1 said why.", "error_time": 1.7e9, "log": ("one", "two")}
    failed = {
        code.name.lower(): TerminationMessage(**POD, exit_code=code, **attested, **told)
        for code in ExitCode
        if code is not ExitCode.DONE
    }
    failed["diverged"] = failed["diverged"].model_copy(update={"rows": ("rows.jsonl:3", "rows.jsonl:9")})
    failed["hung"] = failed["hung"].model_copy(update={"slowest_rank": 2})
    failed["infrastructure"] = TerminationMessage(**POD, exit_code=137, **attested, **told)
    failed["refused"] = TerminationMessage(**{**POD, "attempt": 0, "nonce": ""}, exit_code=76, error="No.")
    done = TerminationMessage(**POD, exit_code=0, **attested, result=RESULT)
    return {name: _meant(ending) for name, ending in {**failed, "done": done}.items()}


def schema() -> dict[str, Any]:
    """Return the JSON schema of the run.json that an image of this version accepts."""
    return RunConfig.model_json_schema(by_alias=True)


def exit_codes() -> dict[str, str]:
    """Return the failure class of each exit code."""
    return {str(int(code)): failure.value for code, failure in CLASS_OF_EXIT_CODE.items()}


def _meant(message: Message) -> dict[str, Any]:
    """Return the text of a message as it is sent, and its fields as they are read."""
    return {"text": message.to_json(), "fields": message.model_dump(mode="json")}


def main(version: str) -> None:
    folder = FOLDER / version
    folder.mkdir()
    for record in (runs, pod, answers, endings, schema, exit_codes):
        text = json.dumps(record(), indent=1, sort_keys=True, ensure_ascii=False)
        (folder / f"{record.__name__}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
