"""What has to be there before ranks can load: encoded rows and the start checkpoint, in the run's folder.

One process does this for all. The start checkpoint is the base model as training begins: with the labels, a head of
their number, a token for padding if one is needed, and new parameters drawn by the run's seed. It is made outside any
ZeRO-3 context, in which a checkpoint with another head cannot be loaded, and every ZeRO stage loads that one.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import datasets
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from finetune_trainer.contract import TASKS, RunConfig, Source
from finetune_trainer.data.rows import Rows, load_rows
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.export import START_FOLDER, share
from finetune_trainer.model.labels import are_generic, carry_over, head_parameters, in_base_order, labels_of, rows_of
from finetune_trainer.model.trust import CODE_KEY, check_model, has_safetensors
from finetune_trainer.pod.paths import Paths
from finetune_trainer.tasks import Settings, Task, task_of

PREPARED_FOLDER = "prepared"
FACTS_FILE = "facts.json"
UNUSED_FILES = ["*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "*.gguf", "onnx/*", "openvino/*", "original/*"]
"""Weights of other frameworks in hub repositories."""
NUMBERED = re.compile(r"\.\d+\.")
"""In the name of a parameter: it belongs to one of several like layers."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Prepared:
    """What `prepare` left, as every rank reads it."""

    train: datasets.Dataset
    evaluation: datasets.Dataset
    classes: int
    """Number of labels; 0 for CausalLM."""
    digest: str
    """Of the dataset."""
    new_parameters: tuple[str, ...]
    """Names of the parameters that the base model did not have, or had in another shape."""
    start: Path
    settings: Settings
    known_labels: tuple[str, ...] = ()
    """Those that the base model knew too, and whose rows of its head the training starts with."""
    new_tokens: tuple[int, ...] = ()
    """Ids of the tokens whose embeddings no training has touched."""

    @classmethod
    def load(cls, config: RunConfig, paths: Paths) -> Prepared:
        """Read it back; rows stay on the disk."""
        folder, start = _folders(config, paths)
        facts = json.loads((folder / FACTS_FILE).read_text())
        task = task_of(config.task)
        return cls(
            train=datasets.load_from_disk(str(folder / "train")),
            evaluation=datasets.load_from_disk(str(folder / "evaluation")),
            classes=len(facts["labels"] or ()),
            digest=facts["digest"],
            new_parameters=tuple(facts["newParameters"]),
            start=start,
            settings=Settings(
                task.load_processor(start, config.allow_remote_code),
                AutoConfig.from_pretrained(start, trust_remote_code=config.allow_remote_code),
                config.training.sequence_length,
            ),
            known_labels=tuple(facts.get("knownLabels", ())),
            new_tokens=tuple(facts.get("newTokens", ())),
        )


def prepare(config: RunConfig, paths: Paths) -> None:
    """Check data and model, write both; what an earlier attempt of the run has prepared stays as it is, whatever the
    sources are now. Raises InvalidError with one sentence for what is wrong with them."""
    folder, start = _folders(config, paths)
    if _is_whole(folder, start):
        return
    unfinished = [path.with_name(f".{path.name}-a{config.attempt}") for path in (folder, start)]
    _write(config, paths, *map(_empty_folder, unfinished))
    for path, final in zip(reversed(unfinished), (start, folder), strict=True):
        shutil.rmtree(final, ignore_errors=True)
        path.rename(final)


def _folders(config: RunConfig, paths: Paths) -> tuple[Path, Path]:
    return paths.run(config) / PREPARED_FOLDER, paths.run(config) / START_FOLDER


def _is_whole(folder: Path, start: Path) -> bool:
    """Whether the files of both are there, in the size in which they were written."""
    try:
        sizes = json.loads((folder / FACTS_FILE).read_text())["sizes"]
        return bool(sizes == _sizes(folder, start))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sizes(folder: Path, start: Path) -> dict[str, int]:
    return {
        f"{name}/{path.relative_to(below)}": path.stat().st_size
        for name, below in ((PREPARED_FOLDER, folder), (START_FOLDER, start))
        for path in sorted(below.rglob("*"))
        if path.is_file() and path.name != FACTS_FILE
    }


def _write(config: RunConfig, paths: Paths, folder: Path, start: Path) -> None:
    task = task_of(config.task)
    _check_metrics(config)
    base = _base_folder(config.model, paths)
    check_model(config, base)
    model_config = _base_config(config, task, base)
    processor = _processor(config, task, base)
    base_labels = labels_of(model_config)
    rows = load_rows(config.dataset, config.task, paths, partial(in_base_order, base=base_labels))
    model, new_parameters, known_labels = _start_model(config, base, model_config, rows, base_labels)
    if not task.can_learn(model):
        raise _misfit(config, model_config)
    new_tokens = task.adapt(model, processor)
    model.save_pretrained(start)
    processor.save_pretrained(start)
    share(start)
    settings = Settings(processor, model.config, config.training.sequence_length)
    task.encode(rows.train, settings).save_to_disk(str(folder / "train"))
    task.encode(rows.evaluation, settings).save_to_disk(str(folder / "evaluation"))
    facts = {
        "labels": rows.labels,
        "digest": rows.digest,
        "newParameters": sorted(new_parameters),
        "newTokens": new_tokens,
        "knownLabels": known_labels,
        "sizes": _sizes(folder, start),
    }
    (folder / FACTS_FILE).write_text(json.dumps(facts))


def _empty_folder(folder: Path) -> Path:
    """A former container of this attempt may have left its own."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        place = next(parent for parent in folder.parents if parent.exists())
        status = place.stat()
        raise InvalidError(
            f"storage: {place} cannot be written ({error.strerror}) by uid {os.getuid()}, gid {os.getgid()}; it "
            f"belongs to {status.st_uid}:{status.st_gid} with mode {status.st_mode & 0o7777:o}; "
            "set podTemplate.securityContext.fsGroup or change its mode"
        ) from None
    return folder


def _check_metrics(config: RunConfig) -> None:
    for metric in config.metrics:
        if metric not in TASKS[config.task].metrics:
            fitting = ", ".join(TASKS[config.task].metrics)
            raise InvalidError(f"evaluate.metrics: {metric} does not fit task {config.task}; use {fitting}")


# ---- the base model -------------------------------------------------------------------------------------------------


def _base_folder(model: Source, paths: Paths) -> Path:
    """Fetched from the hub, with the token in HF_TOKEN if there is one, or where the URI says."""
    folder = paths.local(model.uri)
    if folder is not None:
        if not folder.is_dir():
            raise InvalidError(f"model.uri: {model.uri} is not a folder; give one in Hugging Face layout")
        return folder
    repository = model.uri.removeprefix("hf://")
    try:
        return Path(snapshot_download(repository, revision=model.revision, ignore_patterns=UNUSED_FILES))
    except RevisionNotFoundError:
        raise InvalidError(f"model.revision: {model.uri} has no revision {model.revision}; correct it") from None
    except RepositoryNotFoundError:
        raise InvalidError(
            f"model.uri: {model.uri} does not exist on the hub or is not yours to read; "
            "correct it, or put a token in the secret that model.secretName names"
        ) from None


def _base_config(config: RunConfig, task: Task, base: Path) -> PreTrainedConfig:
    uri = config.model.uri
    if not (base / "config.json").is_file():
        raise InvalidError(f"model.uri: {uri} has no config.json; give a folder in Hugging Face layout")
    try:
        model_config: PreTrainedConfig = AutoConfig.from_pretrained(base, trust_remote_code=config.allow_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InvalidError(
            f"model.uri: config.json of {uri} cannot be used ({_complaint(error, base, uri)}); save the model again"
        ) from None
    # Code that was allowed may bring a type of its own.
    brought = config.allow_remote_code and task.auto_class.__name__ in getattr(model_config, CODE_KEY, {})
    if not (brought or model_config.model_type in task.model_types):
        raise _misfit(config, model_config)
    return model_config


def _misfit(config: RunConfig, model_config: PreTrainedConfig) -> InvalidError:
    return InvalidError(
        f"task: {config.task} does not fit model.uri {config.model.uri}, which is of type {model_config.model_type}; "
        "choose another task or another model"
    )


def _processor(config: RunConfig, task: Task, base: Path) -> Any:
    try:
        return task.load_processor(base, config.allow_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        kind = "image processor" if TASKS[config.task].reads == "pictures" else "tokenizer"
        uri = config.model.uri
        raise InvalidError(
            f"model.uri: {uri} has no usable {kind} ({_complaint(error, base, uri)}); save it beside the model"
        ) from None


def _start_model(
    config: RunConfig, base: Path, model_config: PreTrainedConfig, rows: Rows, base_labels: tuple[str, ...]
) -> tuple[PreTrainedModel, set[str], list[str]]:
    """The model with its new parameters, their names, and the labels that the base model knew."""
    own_config = copy.deepcopy(model_config)
    if rows.labels is not None:
        model_config.id2label = dict(enumerate(rows.labels))
        model_config.label2id = {label: index for index, label in enumerate(rows.labels)}
        model_config.problem_type = "single_label_classification"
    torch.manual_seed(config.training.seed)
    try:
        model, info = _loaded(config, base, model_config)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError, UnpicklingError) as error:
        uri = config.model.uri
        raise InvalidError(
            f"model.uri: {uri} cannot be loaded ({_complaint(error, base, uri)}); give a folder with all its weights"
        ) from None
    parameters = {name for name, _ in model.named_parameters()}
    new = parameters & (set(info["missing_keys"]) | {key[0] for key in info["mismatched_keys"]})
    body = {name for name in parameters if name.startswith(f"{model.base_model_prefix}.")}
    if body and body <= new:
        raise InvalidError(
            f"model.uri: the weights of {config.model.uri} have none of the names that its config.json asks for; "
            "give a folder whose weights and config.json belong together"
        )
    # A head or a pooler may be new; a layer among layers would be noise that all others have to pass through.
    if lost := sorted(name for name in body & new if NUMBERED.search(name)):
        raise InvalidError(
            f"model.uri: the weights of {config.model.uri} lack {lost[0]} or have it in another shape, and so "
            f"{len(lost)} parameters that config.json asks for; give a folder whose weights and config.json belong "
            "together"
        )
    if rows.labels is None or not base_labels:
        return model, new, []
    return model, *_with_known_labels(config, base, own_config, model, new, rows.labels, base_labels)


def _loaded(config: RunConfig, base: Path, model_config: PreTrainedConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The base model as it is configured, and what transformers says of its parameters."""
    model, info = task_of(config.task).auto_class.from_pretrained(
        base,
        config=model_config,
        dtype=DTYPES[config.training.precision],
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        trust_remote_code=config.allow_remote_code,
        use_safetensors=has_safetensors(base) or not config.allow_pickle_weights,
        weights_only=True,
    )
    return model, info


def _with_known_labels(
    config: RunConfig,
    base: Path,
    own_config: PreTrainedConfig,
    model: PreTrainedModel,
    new: set[str],
    labels: tuple[str, ...],
    base_labels: tuple[str, ...],
) -> tuple[set[str], list[str]]:
    """Carry over the head's rows of labels that the base model knew. Returns the new parameters and these labels.

    When the labels are the same, they have the base model's order and the head is right as it was loaded. A head that
    has as many rows, but for other labels, was loaded as it is: each of its rows must come to its name."""
    known = rows_of(labels, base_labels)
    if not known and (len(labels) != len(base_labels) or are_generic(base_labels)):
        return new, []  # the head is new already, or says nothing of what its rows are for
    auto_class = task_of(config.task).auto_class
    heads = head_parameters(auto_class, model.config, config.allow_remote_code)
    if [known.get(label) for label in labels] == list(range(len(base_labels))):
        return new, [] if heads & new else list(labels)
    own, info = _loaded(config, base, own_config)
    if not heads or heads & ({*info["missing_keys"]} | {key[0] for key in info["mismatched_keys"]}):
        return new, []  # the base model has no head
    torch.manual_seed(config.training.seed)
    carry_over(model, own, heads, {labels.index(label): row for label, row in known.items()})
    return new | heads, [label for label in labels if label in known]


def _complaint(error: Exception, base: Path, uri: str) -> str:
    """The first line of what a library says, with the user's name for the folder."""
    line = (str(error).strip() or repr(error)).splitlines()[0]
    return line.replace(str(base), uri.rstrip("/")).rstrip(".")[:300]
