"""Determines the rows of every rank in every step from dataset digest, seed, epoch and world size alone.

An epoch is one permutation of the rows. Each step takes the next G rows (the global batch size), and the last step of
an epoch takes the rest. A step is divided into micro-batches of m rows, numbered by j; rank r processes j = a * world +
r for a = 0, 1, ... All ranks process the same number of micro-batches, because ZeRO-3 would deadlock otherwise: missing
rows are replaced by rows of weight 0, so that any world size works with any G. Neither the order of the rows nor the
rows of micro-batch j depend on the world size.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MicroBatch:
    """The rows of one forward pass, always m of them."""

    index: int
    """The number j of the micro-batch in the global batch."""
    rows: tuple[int, ...]
    weights: tuple[int, ...]
    """The weight of each row: 1 for a row that counts, 0 for a row that only fills the micro-batch."""


@dataclass(frozen=True)
class Sampler:
    """The order of the training rows. `step` counts from 0 over all epochs."""

    rows: int
    global_batch: int
    micro_batch: int
    world: int
    seed: int
    digest: str
    """The digest of the dataset."""

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.global_batch)

    def epoch(self, step: int) -> int:
        """Return the epoch of a step, counted from 0."""
        return step // self.steps_per_epoch

    def items(self, step: int) -> NDArray[np.int64]:
        """Return the rows of a step, in order: G rows, or fewer in the last step of an epoch."""
        first = step % self.steps_per_epoch * self.global_batch
        order = _permutation(self.rows, self.digest, self.seed, self.epoch(step))
        return order[first : first + self.global_batch]

    def micro_batches(self, step: int, rank: int) -> list[MicroBatch]:
        """Return the micro-batches of a rank. Every rank has the same number of them."""
        return _share(self.items(step), self.micro_batch, self.world, rank)


def evaluation_batches(rows: int, micro_batch: int, world: int, rank: int) -> list[MicroBatch]:
    """Return a rank's micro-batches for the evaluation of `rows` rows. Every rank has the same number of them."""
    return _share(np.arange(rows), micro_batch, world, rank)


def micro_batch_seed(seed: int, step: int, index: int) -> int:
    """Return the seed of a micro-batch's randomness (dropout), which depends on neither rank nor ZeRO stage."""
    return _seed("micro-batch", seed, step, index)


def _share(items: NDArray[np.int64], micro_batch: int, world: int, rank: int) -> list[MicroBatch]:
    accumulation = -(-len(items) // (micro_batch * world))
    shares = []
    for a in range(accumulation):
        index = a * world + rank
        rows = items[index * micro_batch : (index + 1) * micro_batch].tolist()
        missing = micro_batch - len(rows)
        filler = rows[0] if rows else int(items[0])
        weights = (1,) * len(rows) + (0,) * missing
        shares.append(MicroBatch(index, tuple(rows) + (filler,) * missing, weights))
    return shares


@lru_cache(maxsize=2)
def _permutation(rows: int, digest: str, seed: int, epoch: int) -> NDArray[np.int64]:
    # NumPy guarantees a stable stream of random numbers for RandomState only, not for Generator (NEP 19).
    state = np.random.RandomState(np.random.MT19937(_seed("order", digest, seed, epoch)))
    return state.permutation(rows)


def _seed(*parts: str | int) -> int:
    """Hash the parts to a seed of 63 bits, because torch's seeds are signed."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
