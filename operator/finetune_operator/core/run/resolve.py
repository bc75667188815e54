"""Derives the run.json of an attempt from a spec: defaults that depend on other fields, and the batch arithmetic."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from finetune_operator.api.shown import shown
from finetune_operator.api.v1alpha1 import FineTuneJob, FineTuneJobSpec, RunStatus
from finetune_operator.core.run.naming import run_folder
from finetune_operator.core.settings import Settings
from finetune_trainer import contract
from finetune_trainer.contract import METHODS, TASKS, Checkpointing, Patience, RunConfig, Source, World, limited_to
from finetune_trainer.deepspeed_config import refuse_planned
from finetune_trainer.errors import InvalidError

MAX_MICRO_BATCH = 8
"""The most rows in one forward pass, as long as no plan computes what fits into memory."""
DEFAULT_EPOCHS = 3
DEFAULT_RANK = 16
DEFAULT_SEQUENCE_LENGTH = 512
BEST_IS_KEPT_SINCE = 2
"""The contract version with which `evaluate.keep: Best` became the default."""


def recipe_digest(spec: FineTuneJobSpec, version: int) -> str:
    """Return the digest of all fields that determine the model, with defaults filled in.

    Two specs with the same digest ask for the same model. Fields that change the model only in its last bits, because
    they determine where and on how many ranks it is trained, are not part of it. `version` is the contract of the run
    that the digest is compared with: a default that was added after that run must not cause another one.
    """
    recipe = {
        name: part.model_dump(mode="json", exclude_none=True) if isinstance(part, contract.Message) else part
        for name, part in _recipe(spec).items()
        if part is not None
    }
    if version < BEST_IS_KEPT_SINCE:
        del recipe["keep"]
    for name in ("micro_batch_size", "activation_checkpointing"):
        del recipe["training"][name]
    # They determine which data is accepted, but not what is learned from it.
    for name in ("max_bad_fraction", "max_leak_fraction"):
        recipe["dataset"].pop(name, None)
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def world_of(spec: FineTuneJobSpec) -> World:
    """Return the world: one process for each GPU, or on CPUs as many processes as asked for."""
    resources = spec.resources
    if resources.gpus_per_node:
        return World(nodes=resources.nodes, processes_per_node=resources.gpus_per_node, device="cuda")
    return World(nodes=resources.nodes, processes_per_node=resources.processes_per_node or 1, device="cpu")


def micro_batch_size(global_batch_size: int, world_size: int) -> int:
    """Return the number of rows in one forward pass of one rank.

    A rank's share of the global batch is split into as few equal parts as MAX_MICRO_BATCH allows. Places that the
    global batch does not fill are padded with rows of weight 0, so any world fits any batch.
    """
    share = math.ceil(global_batch_size / world_size)
    return math.ceil(share / math.ceil(share / MAX_MICRO_BATCH))


def micro_batch_of(spec: FineTuneJobSpec, run: RunStatus) -> int:
    """Return the rows in one forward pass of the run's attempt: as planned, or fewer after memory ran out."""
    return run.micro_batch_size or micro_batch_size(spec.training.global_batch_size, world_of(spec).size)


def refusals(spec: FineTuneJobSpec, settings: Settings) -> list[str]:
    """Return sentences about faults that no schema can find.

    These are URIs that this cluster cannot read, and DeepSpeed keys that clash with those that the operator plans.
    """
    sentences = [
        f"spec.{field}: {shown(uri)} is read by 'finetune run' only; put it on the claim and write workspace://path"
        for field, uri in uris_of(spec).items()
        if uri.startswith("file://") and not settings.local
    ]
    try:
        refuse_planned(spec.deepspeed.config)
    except InvalidError as error:
        sentences.append(f"spec.{error}")
    return sentences


def uris_of(spec: FineTuneJobSpec) -> dict[str, str]:
    """Return the URIs that are read, by the field that contains them."""
    uris = {"model.uri": spec.model.uri, "dataset.uri": spec.dataset.uri}
    return uris | ({"dataset.evaluation.uri": spec.dataset.evaluation.uri} if spec.dataset.evaluation.uri else {})


def claims_of(spec: FineTuneJobSpec) -> list[str]:
    """Return the names of the claims that pvc:// URIs refer to."""
    uris = uris_of(spec).values()
    return sorted({uri.removeprefix("pvc://").split("/", 1)[0] for uri in uris if uri.startswith("pvc://")})


def storage_claim(spec: FineTuneJobSpec, default: str) -> str:
    """Return the claim of the job's storage; `default` is the operator's."""
    return spec.storage.claim_name or default


def run_config(job: FineTuneJob, run: RunStatus, settings: Settings) -> RunConfig:
    """Return the complete run.json of a run's attempt.

    It is always the same for the same job, run and settings.
    """
    spec, metadata = job.spec, job.metadata
    recipe = _recipe(spec)
    memory = {
        "micro_batch_size": micro_batch_of(spec, run),
        "activation_checkpointing": run.activation_checkpointing,
    }
    recipe["training"] = recipe["training"].model_copy(update=memory)
    config = RunConfig(
        namespace=metadata.namespace,
        job=metadata.name,
        uid=metadata.uid,
        run=run.number,
        attempt=run.attempt,
        nonce=run.nonce,
        folder=run_folder(metadata.namespace, metadata.name, metadata.uid, run.number),
        world=world_of(spec),
        zero_stage=_stage(spec.deepspeed.zero_stage),
        checkpoint=Checkpointing(every_seconds=60.0 * spec.checkpoint.every_minutes, keep=spec.checkpoint.keep),
        patience=_patience(spec.fault_tolerance.hang_minutes),
        allow_remote_code=settings.allow_remote_code,
        allow_pickle_weights=settings.allow_pickle_weights,
        **recipe,
    )
    return limited_to(config, run.contract)


def with_config_digest(job: FineTuneJob, run: RunStatus, settings: Settings) -> RunStatus:
    """Return the run with the digest of the configuration that its attempt's ranks must attest."""
    return run.model_copy(update={"config_digest": run_config(job, run, settings).digest})


def _recipe(spec: FineTuneJobSpec) -> dict[str, Any]:
    """Return the fields of a RunConfig that determine what is trained."""
    return {
        "task": spec.task,
        "model": Source(uri=spec.model.uri, revision=spec.model.revision),
        "dataset": contract.Dataset(
            source=Source(uri=spec.dataset.uri, revision=spec.dataset.revision),
            columns=contract.Columns(**spec.dataset.columns.model_dump()),
            evaluation_fraction=spec.dataset.evaluation.fraction,
            evaluation_source=Source(uri=spec.dataset.evaluation.uri) if spec.dataset.evaluation.uri else None,
            max_bad_fraction=spec.dataset.max_bad_fraction,
            max_leak_fraction=spec.dataset.evaluation.max_leak_fraction,
        ),
        "lora": _lora(spec),
        "training": _training(spec, world_of(spec)),
        "deepspeed": spec.deepspeed.config,
        "metrics": tuple(spec.evaluate.metrics or TASKS[spec.task].metrics),
        "keep": spec.evaluate.keep,
        "evaluate_every_steps": spec.evaluate.every_steps,
        "merge": spec.output.merge,
    }


def _patience(hang_minutes: int) -> Patience:
    """Return how long a step may take before it counts as hung.

    A first step, and everything else that is slower than a step, is never given less time than a later step.
    """
    seconds = 60.0 * hang_minutes
    return Patience(first_step=max(Patience().first_step, seconds), step=seconds)


def _stage(stage: int) -> contract.ZeroStage:
    stages: dict[int, contract.ZeroStage] = {0: 0, 1: 1, 2: 2, 3: 3}
    return stages[stage]


def _lora(spec: FineTuneJobSpec) -> contract.Lora | None:
    method = spec.method
    if not METHODS[method.type].has_adapter:
        return None
    rank = method.rank or DEFAULT_RANK
    return contract.Lora(
        rank=rank,
        alpha=method.alpha or 2.0 * rank,
        dropout=method.dropout or 0.0,
        target_modules=tuple(method.target_modules) if method.target_modules else None,
    )


def _training(spec: FineTuneJobSpec, world: World) -> contract.Training:
    wanted = spec.training
    epochs = wanted.epochs or (None if wanted.max_steps else DEFAULT_EPOCHS)
    stopping = wanted.early_stopping
    precision = wanted.precision
    if precision == "Auto":
        precision = "bf16" if world.device == "cuda" else "fp32"
    return contract.Training(
        epochs=epochs,
        max_steps=wanted.max_steps,
        global_batch_size=wanted.global_batch_size,
        micro_batch_size=micro_batch_size(wanted.global_batch_size, world.size),
        sequence_length=wanted.sequence_length or DEFAULT_SEQUENCE_LENGTH,
        learning_rate=wanted.learning_rate or METHODS[spec.method.type].learning_rate,
        schedule=wanted.schedule,
        warmup_fraction=wanted.warmup_fraction,
        weight_decay=wanted.weight_decay,
        max_grad_norm=wanted.max_grad_norm,
        precision=precision,
        seed=wanted.seed,
        early_stopping=contract.EarlyStopping(**stopping.model_dump()) if stopping else None,
    )
