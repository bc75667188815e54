"""Which rows every rank takes in every step: a pure function of (dataset digest, seed, epoch) and the world.

An epoch is one permutation of the rows. Step k takes the next G of them, the last step of an epoch what is left. A
step is cut into micro-batches of m rows, numbered j; rank r takes j = a * world + r for a = 0, 1, ... All ranks do the
same number of micro-batches, or ZeRO-3 waits forever: what is missing is filled with rows of weight 0, so that any
world can work with any G. Neither the order nor the contents of micro-batch j depend on the world.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MicroBatch:
    """Rows that go through the model together, always m of them."""

    index: int
    """j: its number in the global batch."""
    rows: tuple[int, ...]
    weights: tuple[int, ...]
    """1 for a row that counts, 0 for one that fills up."""


@dataclass(frozen=True)
class Sampler:
    """The order of the training rows. `step` counts from 0 over all epochs."""

    rows: int
    global_batch: int
    micro_batch: int
    world: int
    seed: int
    digest: str
    """Of the dataset."""

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.global_batch)

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that a step belongs to."""
        return step // self.steps_per_epoch

    def items(self, step: int) -> NDArray[np.int64]:
        """The rows of a step, in order: G, or fewer in the last step of an epoch."""
        first = step % self.steps_per_epoch * self.global_batch
        order = _permutation(self.rows, self.digest, self.seed, self.epoch(step))
        return order[first : first + self.global_batch]

    def micro_batches(self, step: int, rank: int) -> list[MicroBatch]:
        """The micro-batches of a rank; equally many on every rank."""
        return _share(self.items(step), self.micro_batch, self.world, rank)


def evaluation_batches(rows: int, micro_batch: int, world: int, rank: int) -> list[MicroBatch]:
    """The micro-batches in which a rank evaluates its part of `rows` rows; equally many on every rank."""
    return _share(np.arange(rows), micro_batch, world, rank)


def micro_batch_seed(seed: int, step: int, index: int) -> int:
    """Seed for the randomness (dropout) of a micro-batch. It depends on neither ranks nor stage, nor does dropout."""
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
    # RandomState and not Generator: only its stream is promised never to change (NumPy NEP 19).
    state = np.random.RandomState(np.random.MT19937(_seed("order", digest, seed, epoch)))
    return state.permutation(rows)


def _seed(*parts: str | int) -> int:
    """63 bits, because torch's seeds are signed."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
