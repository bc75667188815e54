"""The rows to learn from and the rows to measure on, checked, with canonical columns.

Every row is checked before training takes any time, so that bad data is one sentence and not a failure hours later.
Evaluation rows by fraction are chosen by a hash of what the model reads, without case and blanks: they stay evaluation
rows as the data grows, and equal inputs lie on one side only. The hash takes no seed: a model trained under one seed
must not have learned the rows that a model of another seed is measured on.

Rows are written to an Arrow file in the scratch folder and memory-mapped, so their number is not bound by memory.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from datasets.arrow_writer import ArrowWriter

from finetune_trainer import contract
from finetune_trainer.contract import Task
from finetune_trainer.data.files import read
from finetune_trainer.data.hub import Side
from finetune_trainer.data.label_check import LabelCounts, label_notes, refuse_no_classes, shown
from finetune_trainer.data.row_check import FEATURES, Row, RowCheck
from finetune_trainer.errors import InvalidError
from finetune_trainer.pod.paths import Paths

LABEL_FEATURES = datasets.Features({"label": datasets.Value("int64")})
MAX_LEAK_FRACTION = 0.01
"""Part of the evaluation rows that may also be training rows, unless the user says otherwise: short texts repeat."""


@dataclass(frozen=True)
class Rows:
    """Columns: `id`; what the model reads: text, messages, prompt and completion, or image; `label` when classifying.

    `label` is an index into `labels`. `digest` is the sha256, in hex, of the content and order of the rows on both
    sides and of the labels.
    """

    train: datasets.Dataset
    evaluation: datasets.Dataset
    labels: tuple[str, ...] | None
    digest: str
    leaked: int
    """Evaluation rows that are also training rows, but for case and blanks."""
    notes: tuple[str, ...] = ()
    """Sentences on what is not wrong but should be known, without any text of the rows."""


def load_rows(
    dataset: contract.Dataset, task: Task, paths: Paths, arranged: Callable[[Sequence[str]], tuple[str, ...]] = tuple
) -> Rows:
    """Read, check and split the data. One process does this, for all. `arranged` gets the labels sorted (by
    value, if all are numbers) and puts them in the order that is wanted.

    Raises InvalidError with one sentence for anything that is wrong in the data; ConnectionError when the hub cannot
    be reached.
    """
    check = RowCheck(dataset.columns, task)
    sides = {side: _SideWriter(side, check.inputs, paths) for side in ("train", "evaluation")}
    fraction = None if dataset.evaluation_source is not None else dataset.evaluation_fraction
    if dataset.evaluation_source is None and fraction is None:
        raise InvalidError("dataset.evaluation: gives neither fraction nor uri; set one of them")
    reading = read(dataset.source, "dataset.uri", "train", paths)
    notes = list(reading.notes)
    with sides["train"] as train, sides["evaluation"] as evaluation:
        for row in check.rows(reading.rows, "dataset.uri", dataset.source.uri):
            (evaluation if fraction is not None and _is_held_out(row.key, fraction) else train).write(row)
        if dataset.evaluation_source is not None:
            field, uri = "dataset.evaluation.uri", dataset.evaluation_source.uri
            reading = read(dataset.evaluation_source, field, "evaluation", paths)
            notes += reading.notes
            for row in check.rows(reading.rows, field, uri):
                evaluation.write(row)
    _refuse_empty_side(train, evaluation, fraction)
    labels = None
    if "label" in check.wanted:
        labels = arranged(_labels(train.labels, evaluation.labels, dataset))
        notes += label_notes(train.labels.joined(evaluation.labels))
    leaked = _leaked(train, evaluation, dataset)
    digest = hashlib.sha256(json.dumps([train.digest, evaluation.digest, labels], ensure_ascii=False).encode())
    return Rows(train.dataset(labels), evaluation.dataset(labels), labels, digest.hexdigest(), leaked, tuple(notes))


def _is_held_out(key: bytes, fraction: float) -> bool:
    return int.from_bytes(key[:8], "big") < fraction * 2**64


def _refuse_empty_side(train: _SideWriter, evaluation: _SideWriter, fraction: float | None) -> None:
    count = train.count + evaluation.count
    if fraction is not None and not evaluation.count:
        raise InvalidError(
            f"dataset.evaluation.fraction: {fraction:g} of {count} rows leaves none to measure on; "
            "give a larger fraction, more rows, or dataset.evaluation.uri"
        )
    if not train.count:
        raise InvalidError(
            f"dataset.evaluation.fraction: {fraction:g} of {count} rows leaves none to learn from; "
            "give a smaller fraction, more rows that differ, or dataset.evaluation.uri"
        )


def _leaked(train: _SideWriter, evaluation: _SideWriter, dataset: contract.Dataset) -> int:
    """How many evaluation rows are also training rows. Raises InvalidError when they are too many."""
    leaked = np.isin(np.asarray(evaluation.keys), np.asarray(train.keys))
    count = int(leaked.sum())
    allowed = MAX_LEAK_FRACTION if dataset.max_leak_fraction is None else dataset.max_leak_fraction
    if count > allowed * evaluation.count:
        first = evaluation.id_at(int(leaked.argmax()))
        raise InvalidError(
            f"dataset.evaluation.uri: {count} of {evaluation.count} evaluation rows are also training rows, but for "
            f"case and blanks, the first one at {first}; remove them from one side, or allow them by "
            f"dataset.evaluation.maxLeakFraction (now {allowed:g})"
        )
    return count


# ---- labels ---------------------------------------------------------------------------------------------------------


def _labels(train: LabelCounts, evaluation: LabelCounts, dataset: contract.Dataset) -> tuple[str, ...]:
    """Sorted names of the classes. By fraction they are those of the whole dataset: which side a rare class falls on
    is chance."""
    column = dataset.columns.label or ""
    if len(train.counts) == 1:
        (only,) = train.counts
        name = f"the label {shown(only, train.rows)}" if train.rows > 1 else "the same label"
        raise InvalidError(
            f"dataset.columns.label: all {train.rows} training rows have {name} in "
            f"column {column!r}; give rows of at least two classes or name another column"
        )
    both = train.joined(evaluation)
    refuse_no_classes(both if dataset.evaluation_source is None else train, column)
    unknown = sorted(evaluation.first.keys() - train.first.keys())
    if unknown and dataset.evaluation_source is not None:
        name = f"label {shown(unknown[0], evaluation.counts[unknown[0]])}"
        raise InvalidError(
            f"dataset.evaluation.uri: {name} at {evaluation.first[unknown[0]]} occurs in no training row; "
            f"add such rows to {dataset.source.uri} or remove it here"
        )
    return tuple(sorted(both.counts, key=_label_order(both.counts.keys())))


def _label_order(labels: Set[str]) -> Callable[[str], Any]:
    try:
        values = {label: float(label) for label in labels}
    except ValueError:
        return str
    if not all(map(math.isfinite, values.values())):
        return str
    return lambda label: (values[label], label)


# ---- writing --------------------------------------------------------------------------------------------------------


class _SideWriter:
    """Writes the rows of one side to an Arrow file, and their labels to another one.

    A label is written as the number of labels that were found before it, because its class is known at the end only.
    """

    def __init__(self, side: Side, inputs: Sequence[str], paths: Paths) -> None:
        folder = paths.scratch / "rows"
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{side}.arrow"
        features = {"id": datasets.Value("string"), **{name: FEATURES[name] for name in inputs}}
        self._writer = ArrowWriter(path=str(self._path), features=datasets.Features(features))
        self._label_path = folder / f"{side}-labels.arrow"
        self._label_writer = ArrowWriter(path=str(self._label_path), features=LABEL_FEATURES)
        self._digest = hashlib.sha256()
        self.keys = array("Q")
        """The first eight bytes of the key of each row."""
        self.count = 0
        self.labels = LabelCounts()

    def __enter__(self) -> _SideWriter:
        return self

    def __exit__(self, exception: type[BaseException] | None, *_: object) -> None:
        if exception is None and self.count:
            self._writer.finalize()
            if self.labels.rows:
                self._label_writer.finalize()
        self._writer.close()
        self._label_writer.close()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def write(self, row: Row) -> None:
        self._writer.write({"id": row.id, **row.values})
        self._digest.update(row.digest)
        self.keys.append(int.from_bytes(row.key[:8], "big"))
        self.count += 1
        if row.label is not None:
            self._label_writer.write({"label": self.labels.add(row.id, row.label, row.values.get("text"))})
            label = row.label.encode()
            self._digest.update(len(label).to_bytes(8, "big") + label)

    def id_at(self, place: int) -> str:
        """The id of the row at that place. Only after the last row was written."""
        name: str = datasets.Dataset.from_file(str(self._path))[place]["id"]
        return name

    def dataset(self, labels: tuple[str, ...] | None) -> datasets.Dataset:
        rows = datasets.Dataset.from_file(str(self._path))
        if labels is None:
            return rows
        number = {label: number for number, label in enumerate(labels)}
        classes = [number[label] for label in self.labels.numbers]
        found = datasets.Dataset.from_file(str(self._label_path))
        in_order = found.map(
            lambda column: {"label": [classes[label] for label in column]},
            input_columns="label",
            batched=True,
            cache_file_name=str(self._label_path.with_suffix(".ordered.arrow")),
            load_from_cache_file=False,
        )
        return datasets.concatenate_datasets([rows, in_order], axis=1)
