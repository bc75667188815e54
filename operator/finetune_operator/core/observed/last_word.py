"""Validates a pod's termination message, which the pod may fill with anything up to 4 KiB.

Text is made plain and shortened. A message with figures that no status can hold is dropped, because the API server
would refuse that status forever. A result is dropped unless its metrics and paths have the form that a trainer gives
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from pydantic import ValidationError

from finetune_operator.core.observed.plausible import LARGEST_FIGURE, is_plausible
from finetune_operator.core.observed.text import MAX_LINE_BYTES, shortened
from finetune_trainer.contract import MAX_LOG_LINES, Result, TerminationMessage

MAX_ROWS = 8
MAX_ROW_BYTES = 80
"""The largest size of a row's id."""

_METRIC = re.compile(r"[a-z][a-z0-9_]{0,31}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def last_word(text: str | None) -> TerminationMessage | None:
    """Return the pod's termination message, validated; None if it is absent or invalid."""
    try:
        word = TerminationMessage.model_validate_json(text) if text else None
    except ValidationError:
        return None
    if word is None or not _figures(word):
        return None
    return word.model_copy(
        update={
            "error": shortened(word.error) if word.error else None,
            "log": tuple(shortened(line, MAX_LINE_BYTES) for line in word.log[-MAX_LOG_LINES:]),
            "rows": tuple(shortened(row, MAX_ROW_BYTES) for row in word.rows[:MAX_ROWS]),
            "result": _plain(word.result) if word.result and _is_result(word.result) else None,
        }
    )


def _figures(word: TerminationMessage) -> bool:
    return (
        -255 <= word.exit_code <= 255
        and 0 <= word.step < LARGEST_FIGURE
        and all(rank is None or 0 <= rank < LARGEST_FIGURE for rank in (word.failing_rank, word.slowest_rank))
        and (word.checkpoint is None or is_plausible(word.checkpoint))
    )


def _is_result(result: Result) -> bool:
    figures = (result.step, result.last_step or 0, result.trainable_parameters, result.parameters)
    return (
        all(0 <= figure < LARGEST_FIGURE for figure in figures)
        and _DIGEST.fullmatch(result.digest) is not None
        and _is_path(result.path)
        and (result.merged_path is None or _is_path(result.merged_path))
        and _are_metrics(result.base_metrics)
        and _are_metrics(result.metrics)
    )


def _plain(result: Result) -> Result:
    failure = result.merge_failure
    return result.model_copy(update={"merge_failure": shortened(failure, MAX_LINE_BYTES)}) if failure else result


def _is_path(path: str) -> bool:
    """Return whether a path lies below the workspace and has only printable ASCII characters."""
    parts = PurePosixPath(path).parts
    short = len(path) <= MAX_LINE_BYTES and path.isascii() and path.isprintable()
    return bool(parts) and parts[0] != "/" and ".." not in parts and short


def _are_metrics(metrics: Mapping[str, float]) -> bool:
    return all(_METRIC.fullmatch(name) for name in metrics)
