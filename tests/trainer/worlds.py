"""Worlds of gloo ranks that live as long as the test session, because starting a rank takes seconds.

A test passes a function to a world. Every rank calls it with its `Ranks` and the arguments, and the world returns the
answers in the order of the ranks. A world in which a rank failed or hung is killed and replaced.
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
"""Seconds that a call may take, more than any test needs."""


class RankFailedError(Exception):
    """A rank raised an error; the text is its traceback."""


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
        """Run a function on all ranks and return their answers.

        Raises RankFailedError with the traceback of the first rank that failed, and if a rank hangs.
        """
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
        """Whether the world can still be used."""
        return all(process.is_alive() for process in self._processes)

    def kill(self) -> None:
        """End all ranks."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


def _serve(connection: Connection, rank: int, size: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DS_ACCELERATOR="cpu", LOCAL_RANK=str(rank))
    # The ranks find no compiler and no earlier builds, as in a pod.
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
    # The imports made millions of objects, which need not be checked for garbage after every training.
    gc.freeze()
    joined = join(_any_config(size), rank, size, rank, Path())
    number = 0
    while True:
        function, arguments = connection.recv()
        number += 1
        # Each call counts its agreements from 0 again, so it needs its own keys in the store.
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
    """One world for each size that tests ask for."""

    def __init__(self) -> None:
        self._worlds: dict[int, World] = {}

    def __call__(self, size: int) -> World:
        """Return the world with that many ranks."""
        if size not in self._worlds or not self._worlds[size].alive:
            self._worlds[size] = World(size)
        return self._worlds[size]

    def close(self) -> None:
        """End the ranks of all worlds."""
        for world in self._worlds.values():
            world.kill()
