"""How the ranks wait for each other when they begin and when they end."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist

from finetune_trainer.ranks import distributed
from finetune_trainer.ranks.distributed import Ranks


def of(store: dist.Store, rank: int) -> Ranks:
    return Ranks(store, rank, world=2, scratch=Path(), device=torch.device("cpu"), is_beside_store=rank == 0)


def test_rank_zero_leaves_last() -> None:
    store = dist.HashStore()
    first = threading.Thread(target=of(store, 0).part)
    first.start()
    while not store.check(["parted"]):
        time.sleep(0.001)
    assert first.is_alive()
    of(store, 1).part()
    first.join(10)
    assert not first.is_alive()


def test_rank_zero_does_not_wait_for_ever_for_one_that_is_stuck() -> None:
    began = time.monotonic()
    of(dist.HashStore(), 0).part(seconds=0.05)
    assert 0.05 <= time.monotonic() - began < 10


def test_a_store_that_has_ended_is_no_failure_of_who_is_done() -> None:
    class Gone(dist.HashStore):
        def add(self, *_: object) -> NoReturn:
            raise dist.DistNetworkError("Broken pipe")

    of(Gone(), 1).part()


def test_ranks_come_together_before_they_train() -> None:
    store = dist.HashStore()
    first = threading.Thread(target=distributed._gather, args=(store, 2))
    first.start()
    while not store.check(["come"]):
        time.sleep(0.001)
    assert first.is_alive()
    distributed._gather(store, 2)
    first.join(10)
    assert not first.is_alive()
