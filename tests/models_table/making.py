"""Makes a row of the table: trains an architecture in every way, reloads each result and compares the losses."""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from models_table.architectures import save_base_model
from models_table.results import COLUMNS, Outcome, Row
from models_table.runs import RANKS, TRAININGS, Training, run_config, write_rows
from models_table.training import Ending, RefusedAloneError, reloaded_loss, train_model
from trainer import tiny
from trainer.worlds import RankFailedError, Worlds

from finetune_trainer.contract import RunConfig, Task
from finetune_trainer.model.export import START_FOLDER
from finetune_trainer.model.prepare import PREPARED_FOLDER
from finetune_trainer.pod.paths import Paths

TOLERANCE = 1e-4
"""The largest difference in nats between the losses of a reloaded and a trained model. Three steps must change the loss
by more; otherwise the comparison would not detect a lost weight."""


def make_row(worlds: Worlds, task: Task, architecture: str) -> Row:
    """Make all columns of an architecture. An error of a library becomes an outcome and is not raised."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="models-table-") as folder:
        paths = tiny.paths_in(Path(folder))
        write_rows(task, paths.workspace)
        base = paths.workspace / "models" / architecture
        try:
            [(model_class, parameters)] = worlds(1).run(save_base_model, task, architecture, base)
        except RankFailedError as error:
            return Row(task, architecture, outcomes=dict.fromkeys(COLUMNS, _failed(error)))
        outcomes = {}
        configs = [run_config(task, architecture, training) for training in TRAININGS]
        for training, config in zip(TRAININGS, configs, strict=True):
            outcomes |= dict(_outcomes(worlds, config, training, paths))
            if training == TRAININGS[0]:
                _share_preparation(paths, *configs)
    return Row(task, architecture, model_class, parameters, outcomes, round(time.monotonic() - began, 1))


def _share_preparation(paths: Paths, first: RunConfig, *others: RunConfig) -> None:
    """Copy what the first run has prepared to the other runs, as if an earlier attempt had prepared it there.

    It is the same for all runs, and preparing it takes a fifth of the time.
    """
    for name in (PREPARED_FOLDER, START_FOLDER) if (paths.run(first) / PREPARED_FOLDER).exists() else ():
        for other in others:
            shutil.copytree(paths.run(first) / name, paths.run(other) / name)


def _outcomes(worlds: Worlds, config: RunConfig, training: Training, paths: Paths) -> Iterator[tuple[str, Outcome]]:
    """Yield the columns that one training fills.

    The training of an adapter also fills the column of the merged copy.
    """
    columns = {column: f"{column}, ZeRO {training.stage}" for column in training.columns}
    try:
        endings: list[Ending | None] = worlds(RANKS).run(train_model, config, paths)
    except RankFailedError as error:
        *_, sentence = str(error).rpartition(f"{RefusedAloneError.__name__}: ")
        alone = Outcome("refused", sentence=sentence.strip())
        outcome = alone if RefusedAloneError.__name__ in str(error) else _failed(error)
        yield from ((name, outcome) for name in columns.values())
        return
    ending = next(ending for ending in endings if ending is not None)
    if ending.refusal is not None:
        if " cannot be trained with deepspeed.zeroStage " in ending.refusal:
            # The error came while the ranks loaded the model, so DeepSpeed's patches for loading may still be active.
            worlds(RANKS).kill()
        yield from ((name, Outcome("refused", sentence=ending.refusal)) for name in columns.values())
        return
    for column, name in columns.items():
        if column == "merged" and ending.merge_failure is not None:
            yield name, Outcome("refused", sentence=ending.merge_failure)
        else:
            yield name, compared(worlds, config, paths, ending, column == "merged")


def compared(worlds: Worlds, config: RunConfig, paths: Paths, ending: Ending, merged: bool) -> Outcome:
    """Return a column's outcome, from the losses of the trained model and of its reloaded result."""
    before, after = round(ending.loss_before, 4), round(ending.loss_after, 4)
    try:
        [reloaded] = worlds(1).run(reloaded_loss, config, paths, merged)
    except RankFailedError as error:
        return _failed(error)
    if not abs(reloaded - ending.loss_after) <= TOLERANCE:
        return Outcome("failed", before, after, f"the reloaded model's loss is {reloaded:.4f}")
    if not math.isfinite(after) or abs(ending.loss_after - ending.loss_before) <= TOLERANCE:
        return Outcome("failed", before, after, "the training has not changed the model")
    return Outcome("trained", before, after)


def _failed(error: RankFailedError) -> Outcome:
    sys.stderr.write(f"{error}\n")
    return Outcome("failed", sentence=str(error).strip().splitlines()[-1])
