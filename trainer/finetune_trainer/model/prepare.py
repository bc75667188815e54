"""Prepares what ranks load: encoded rows and the start checkpoint, in the run's folder.

One process does this for all ranks. The start checkpoint is the base model as the training begins: with the labels, a
head for them, a padding token if one is needed, and new parameters initialised with the run's seed. It is created
outside any ZeRO-3 context, in which a checkpoint with a different head cannot be loaded, and all ZeRO stages load it.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
from transformers import AutoConfig

from finetune_trainer.contract import TASKS, Facts, RunConfig
from finetune_trainer.data.rows import load_rows
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.base import (
    base_config,
    base_folder,
    misfit,
    processor_of,
    refuse_part_without_class,
    shape_of,
)
from finetune_trainer.model.export import START_FOLDER, share
from finetune_trainer.model.facts import facts_of
from finetune_trainer.model.labels import in_base_order, labels_of
from finetune_trainer.model.refusal import as_refusal
from finetune_trainer.model.start_model import start_model
from finetune_trainer.model.trial import try_rows
from finetune_trainer.model.trust import check_model
from finetune_trainer.pod.paths import Paths
from finetune_trainer.tasks import Settings, task_of

PREPARED_FOLDER = "prepared"
FACTS_FILE = "facts.json"


@dataclass(frozen=True)
class Prepared:
    """The result of `prepare`, as every rank loads it."""

    train: datasets.Dataset
    evaluation: datasets.Dataset
    classes: int
    """The number of labels; 0 for CausalLM."""
    digest: str
    """The digest of the dataset."""
    new_parameters: tuple[str, ...]
    """The names of the parameters that the base model lacked or had in another shape."""
    start: Path
    settings: Settings
    facts: Facts
    known_labels: tuple[str, ...] = ()
    """The labels that the base model has too; the training begins with their rows of its head."""
    new_tokens: tuple[int, ...] = ()
    """The ids of the tokens whose embeddings were never trained."""

    @classmethod
    def load(cls, config: RunConfig, paths: Paths) -> Prepared:
        """Load what was prepared; the rows stay on the disk."""
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
            facts=Facts.model_validate(facts["facts"]),
            known_labels=tuple(facts.get("knownLabels", ())),
            new_tokens=tuple(facts.get("newTokens", ())),
        )


def prepare(config: RunConfig, paths: Paths) -> None:
    """Validate data and model, and write both.

    What an earlier attempt of the run prepared is kept, even if the sources have changed since. Raises InvalidError
    with one sentence if data or model are wrong.
    """
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
    """Return whether all files of both folders exist, in the size in which they were written."""
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
    """Prepare both folders.

    Whatever can be checked without the weights is checked before they are downloaded and read.
    """
    task = task_of(config.task)
    _check_metrics(config)
    base = base_folder(config.model, paths, weights=False)
    check_model(config, base)
    model_config = base_config(config, task, base)
    processor = processor_of(config, task, base)
    base_labels = labels_of(model_config)
    with as_refusal("dataset.uri", "check the rows, or choose another model", quote=False):
        rows = load_rows(config.dataset, config.task, paths, partial(in_base_order, base=base_labels))
        task.adapt_processor(processor, partial(shape_of, config, task, model_config))
        settings = Settings(processor, model_config, config.training.sequence_length)
        notes = list(rows.notes)
        train = task.encode(rows.train, settings, notes)
        evaluation = task.encode(rows.evaluation, settings, notes)
        facts = facts_of(config, rows, train, evaluation, task.effective_length(settings), notes)
        train.save_to_disk(str(folder / "train"))
        evaluation.save_to_disk(str(folder / "evaluation"))

    base = base_folder(config.model, paths, weights=True)
    check_model(config, base)  # The check is repeated, because the form of the weights is known only now.
    with as_refusal("model.uri", "choose another model, or save this one again", quote=True):
        model, new_parameters, known_labels = start_model(config, base, model_config, rows, base_labels)
        if not task.can_learn(model):
            raise misfit(config, model_config)
        refuse_part_without_class(config, task, model_config, model.config)
        new_tokens = task.adapt(model, processor, rows.train.column_names)
        try_rows(config, train, model, Settings(processor, model.config, config.training.sequence_length))
        model.save_pretrained(start)
        processor.save_pretrained(start)
    share(start)
    found = {
        "labels": rows.labels,
        "digest": rows.digest,
        "newParameters": sorted(new_parameters),
        "newTokens": new_tokens,
        "knownLabels": known_labels,
        "facts": facts.model_dump(mode="json"),
        "sizes": _sizes(folder, start),
    }
    (folder / FACTS_FILE).write_text(json.dumps(found))


def _empty_folder(folder: Path) -> Path:
    """Create an empty folder, in place of one that an earlier container of this attempt may have left.

    Raises InvalidError if it cannot be written.
    """
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
