"""Streams data sets from the Hugging Face hub, one split of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import datasets

from finetune_trainer.contract import Source
from finetune_trainer.data.columnar import named
from finetune_trainer.data.raw_row import RawRow
from finetune_trainer.errors import InvalidError
from finetune_trainer.pod.paths import Paths

Side = Literal["train", "evaluation"]

HUB_SPLITS: Mapping[Side, tuple[str, ...]] = {
    "train": ("train",),
    "evaluation": ("validation", "test", "dev", "eval"),
}
"""The splits that can be read for each side, in the order of preference."""


def read_hub(source: Source, field: str, side: Side, paths: Paths) -> Iterator[RawRow]:
    """Return the rows of the split that fits the side.

    Raises InvalidError if the data set cannot be used, and ConnectionError if the hub does not answer.
    """
    name = source.uri.removeprefix("hf://")
    shown = f"{source.uri} (revision {source.revision})" if source.revision else source.uri
    try:
        splits = datasets.load_dataset(
            name, revision=source.revision, streaming=True, cache_dir=str(paths.scratch / "datasets")
        )
    except datasets.exceptions.DatasetNotFoundError:
        raise InvalidError(
            f"{field}: {shown} is not on the hub or not open to this token; correct the name or set model.secretName"
        ) from None
    except RuntimeError as error:
        if "scripts" not in str(error):
            raise
        raise InvalidError(
            f"{field}: {shown} is loaded by a script of its own, and none is ever run; name a data set of plain files"
        ) from None
    except ValueError as error:
        raise InvalidError(
            f"{field}: {shown} cannot be loaded ({str(error).splitlines()[0]}); name another data set"
        ) from None
    split = next((split for split in HUB_SPLITS[side] if split in splits), None)
    if split is None and len(splits) == 1:
        split = next(iter(splits))
    if split is None:
        wanted = " or ".join(HUB_SPLITS[side])
        raise InvalidError(
            f"{field}: {shown} has no split {wanted}, only {', '.join(splits)}; save the one you want as a file"
        )
    stream = splits[split]
    rows = named(stream.decode(False), stream.features or {})
    return (RawRow(f"{split}:{number}", values, None, table=source.uri) for number, values in enumerate(rows, 1))
