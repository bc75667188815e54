"""Loads, validates and splits the training rows and the evaluation rows, with canonical columns.

All rows are validated before the training starts, so that bad data causes one message at once and not a failure hours
later. If the evaluation rows are a fraction of the data, a hash of the model's input, without case and white space,
selects them: they remain evaluation rows as the data grows, and equal inputs are on the same side. The hash does not
depend on the seed, because a model trained with one seed must not have learned the evaluation rows of another seed.

Rows are written to an Arrow file in the scratch folder and memory-mapped, so their number is not limited by the memory.
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
"""The default of the fraction of evaluation rows that may also be training rows: short texts often repeat."""


@dataclass(frozen=True)
class Rows:
    """The training rows and the evaluation rows of a run.

    The columns are `id`, the inputs of the model (text, messages, prompt and completion, or image) and, for
    classification, `label`, an index into `labels`. `digest` is the sha256, in hex, of the content and order of the
    rows on both sides and of the labels.
    """

    train: datasets.Dataset
    evaluation: datasets.Dataset
    labels: tuple[str, ...] | None
    digest: str
    leaked: int
    """The number of evaluation rows that are also training rows, apart from case and white space."""
    notes: tuple[str, ...] = ()
    """Notes for the user on what is unusual but not wrong. They contain no text of the rows."""


def load_rows(
    dataset: contract.Dataset, task: Task, paths: Paths, arranged: Callable[[Sequence[str]], tuple[str, ...]] = tuple
) -> Rows:
    """Read, validate and split the data. One process does this for all ranks.

    `arranged` receives the sorted labels (sorted by value if all are numbers) and returns them in the final order.
    Raises InvalidError with one sentence if the data is wrong, and ConnectionError if the hub cannot be reached.
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
    """Return how many evaluation rows are also training rows. Raises InvalidError if they are too many."""
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
    """Return the sorted names of the classes. Raises InvalidError if the labels are not usable as classes.

    If the evaluation rows are a fraction of the data, the classes are those of all rows, because a rare class may be on
    either side by chance.
    """
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

    A label is stored as its number in the order of discovery, because its class is known only after the last row.
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
        """Return the id of the row at an index. It may be called only after the last row was written."""
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
