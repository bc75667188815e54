"""Turns what a library raises while data and model are prepared into one sentence.

Preparing is a function of the data, the model and the configuration, so an exception in it comes again with every
attempt: it is their fault and not the infrastructure's. Excepted are the disk, the memory and the network.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.errors import InvalidError, TrainingError

NETWORK_PACKAGES = frozenset({"aiohttp", "fsspec", "httpcore", "httpx", "huggingface_hub", "requests", "urllib3"})
OUT_OF_MEMORY = "allocate memory"
"""Part of torch's message when the CPU's memory is used up."""
MAX_CHARACTERS = 300


@contextmanager
def as_refusal(field: str, remedy: str, quote: bool) -> Iterator[None]:
    """Raise InvalidError for an exception inside that comes from the data or the model, naming the spec's `field`.

    `quote`: whether the library's message is shown. It must not be where the message may hold text of somebody's data.
    Where it happened is written to the log, without the message."""
    try:
        yield
    except (TrainingError, OSError, MemoryError):
        raise
    except Exception as error:
        if _is_of_network(error) or OUT_OF_MEMORY in str(error):
            raise
        sys.stderr.write("".join(traceback.format_tb(error.__traceback__)))
        said = f": {first_line(error)}" if quote and str(error).strip() else ""
        raise InvalidError(f"{field}: it cannot be prepared ({type(error).__name__}{said}); {remedy}") from None


def first_line(error: Exception) -> str:
    """The first line of a library's message, at most 300 characters, without a full stop."""
    lines = str(error).strip().splitlines() or [repr(error)]
    return lines[0][:MAX_CHARACTERS].rstrip(". ")


def in_one_line(error: Exception, characters: int) -> str:
    """All that a library's message says, in one line of at most so many characters."""
    return " ".join(str(error).split())[:characters]


def _is_of_network(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in NETWORK_PACKAGES
