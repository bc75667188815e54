"""Turns a library's exception during the preparation of data and model into one sentence.

The preparation depends only on the data, the model and the configuration, so an exception in it recurs in every
attempt: they cause it, and not the infrastructure. Errors of the disk, the memory and the network are exempt.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.errors import InvalidError, TrainingError

NETWORK_PACKAGES = frozenset({"aiohttp", "fsspec", "httpcore", "httpx", "huggingface_hub", "requests", "urllib3"})
OUT_OF_MEMORY = "allocate memory"
"""A part of torch's message when the CPU's memory is used up."""
MAX_CHARACTERS = 300


@contextmanager
def as_refusal(field: str, remedy: str, quote: bool) -> Iterator[None]:
    """Raise InvalidError for an exception of the block that the data or the model causes, naming the spec's `field`.

    `quote` is whether the library's message is included; it must not be if the message may contain user data. The stack
    trace is written to the log, without the message.
    """
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
    """Return the first line of a library's message, at most 300 characters, without a period at the end."""
    lines = str(error).strip().splitlines() or [repr(error)]
    return lines[0][:MAX_CHARACTERS].rstrip(". ")


def in_one_line(error: Exception, characters: int) -> str:
    """Return a library's whole message as one line with at most this number of characters."""
    return " ".join(str(error).split())[:characters]


def _is_of_network(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in NETWORK_PACKAGES
