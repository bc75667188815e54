"""Worlds of gloo ranks that live as long as the test session, because a rank takes seconds to start.

A test hands a world a function, which every rank calls with its `Ranks` and the arguments; the answers come back in the
order of the ranks. A world in which a rank failed or hung is killed and replaced.
"""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from finetune_operator.local.ports import free_port
from finetune_trainer import contract
from finetune_trainer.contract import RunConfig

SECONDS = 240
"""Longer than anything that a test asks of a world."""


class RankFailedError(Exception):
    """A rank raised; the text is its traceback."""


class World:
    """Ranks in processes of their own."""

    def __init__(self, size: int) -> None:
        self._spawn = multiprocessing.get_context("spawn")
        port = free_port()
        pairs = [self._spawn.Pipe() for _ in range(size)]
        self._connections = [ours for ours, _ in pairs]
        self._processes = [
            self._spawn.Process(target=_serve, args=(theirs, rank, size, port), daemon=True)
            for rank, (_, theirs) in enumerate(pairs)
        ]
        for process in self._processes:
            process.start()

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What each rank answers. Raises RankFailedError with the traceback of the first that failed."""
        for connection in self._connections:
            connection.send((function, arguments))
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + SECONDS
        while len(answers) < len(self._connections):
            waiting = [c for rank, c in enumerate(self._connections) if rank not in answers]
            ready = multiprocessing.connection.wait(waiting, timeout=deadline - time.monotonic())
            if not ready:
                self.kill()
                raise RankFailedError(f"ranks {sorted(set(range(len(self._connections))) - answers.keys())} hang")
            for connection in ready:
                rank = self._connections.index(connection)
                try:
                    succeeded, answers[rank] = connection.recv()
                except EOFError:
                    succeeded, answers[rank] = False, f"rank {rank} died"
                if not succeeded:
                    self.kill()
                    raise RankFailedError(answers[rank])
        return [answers[rank] for rank in range(len(self._connections))]

    @property
    def alive(self) -> bool:
        """Whether it can still be used."""
        return all(process.is_alive() for process in self._processes)

    def kill(self) -> None:
        """End all ranks."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


def _serve(connection: Connection, rank: int, size: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DS_ACCELERATOR="cpu", LOCAL_RANK=str(rank))
    # As in a pod: no compiler is found, and none has been at work before.
    empty = tempfile.mkdtemp()
    os.environ.update(PATH=empty, TORCH_EXTENSIONS_DIR=empty)
    import logging

    import datasets
    import torch
    import torch.distributed as dist
    import transformers

    from finetune_trainer.ranks.distributed import join

    torch.set_num_threads(1)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    # Millions of objects from imports, which need not be looked at again after every training.
    gc.freeze()
    joined = join(_any_config(size), rank, size, rank, Path())
    number = 0
    while True:
        function, arguments = connection.recv()
        number += 1
        # Agreements are counted from 0 again, so their keys need a place of their own.
        ranks = dataclasses.replace(joined, store=dist.PrefixStore(f"job-{number}", joined.store))
        try:
            answer = (True, function(ranks, *arguments))
        except BaseException:
            answer = (False, f"rank {rank}:\n{traceback.format_exc()}")
        connection.send(answer)


def _any_config(size: int) -> RunConfig:
    from trainer import tiny

    config = tiny.run_config(tiny.SEQUENCE, Path("/"), Path("/"))
    return config.model_copy(update={"world": contract.World(nodes=1, processes_per_node=size, device="cpu")})


class Worlds:
    """One world of each size that tests ask for."""

    def __init__(self) -> None:
        self._worlds: dict[int, World] = {}

    def __call__(self, size: int) -> World:
        """The world of that many ranks."""
        if size not in self._worlds or not self._worlds[size].alive:
            self._worlds[size] = World(size)
        return self._worlds[size]

    def close(self) -> None:
        """End them all."""
        for world in self._worlds.values():
            world.kill()
