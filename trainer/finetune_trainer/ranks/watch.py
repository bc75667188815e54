"""Ends a rank that would otherwise wait forever, and reports for which rank it waited.

The watch is a thread beside the training thread. It reports through the rendezvous store that its process lives and how
far it is, and touches a file from which the pod's agent learns the same. It checks five things: that its own training
thread makes progress; that no other rank has fallen silent (rank 0 checks all ranks, the others check rank 0); that no
other rank has published a reason to end; that the store answers, because it ends with rank 0's pod; and, while the
model is loaded, that its pod is not asked to stop. A collective cannot be interrupted, so if a check fails, the process
ends: the stacks of all threads of a hung rank go to the workspace, and the reason goes to the rank's exit file.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from finetune_trainer.contract import BEFORE_TRAINING, ExitCode, Patience, Phase
from finetune_trainer.ranks.activity import Activity, Moment

BEAT_SECONDS = 2.0
TELLING_SECONDS = 5.0
STEPS_OF_PATIENCE = 10
LOAD_SECONDS = 6 * 3600.0
"""The limit for reading and encoding data, which one rank does while the others wait."""
EXPORT_SECONDS = 3600.0
"""The limit for writing the result and a merged copy to a slow volume, and for reading it again."""
LEAD_SECONDS = 0.5
CALLED_OUT = "ending"
"""The store's key with the reason why all ranks must end."""
STOPPED_BEFORE = "The pod was asked to stop before its training began."
STOP_SECONDS = 10.0
STEPS_UNTIL_STOP = 3
"""The number of median steps within which a pod that was asked to stop must end a step; otherwise it waits for pods
that are gone."""


@dataclass(frozen=True)
class Ending:
    """The reason why a rank must end now."""

    exit_code: int
    sentence: str
    slowest_rank: int | None = None
    is_symptom: bool = False
    """Whether the cause is in another pod, which reports it."""


def patience_with(moment: Moment, patience: Patience) -> float:
    """Return the seconds that a rank may go without progress."""
    if moment.waits or moment.phase in (Phase.INIT, Phase.LOAD):
        return LOAD_SECONDS
    if moment.phase in (Phase.EXPORT, Phase.CHECK):
        return EXPORT_SECONDS
    if moment.phase in (Phase.TRAIN, Phase.EVAL) and moment.steps > 1:
        return max(patience.step, STEPS_OF_PATIENCE * moment.median_step)
    return patience.first_step


def slowest(ticks: Mapping[int, int], silent: set[int]) -> int:
    """Return the rank for which the others wait: a silent one, or else the one with the least progress."""
    return min(ticks, key=lambda rank: (rank not in silent, ticks[rank], rank))


def hung(moment: Moment, rank: int, ticks: Mapping[int, int], silent: set[int], seconds: float) -> Ending:
    """Return the ending for a rank that has made no progress for `seconds`."""
    behind = slowest({**ticks, rank: moment.ticks}, silent)
    others = "it is the one that is least far" if behind == rank else f"all wait for rank {behind}"
    if behind in silent:
        others = f"rank {behind} does not even say that it lives"
    return Ending(
        ExitCode.HUNG,
        f"Nothing has moved for {seconds:.0f} s in phase {moment.phase.value} after {moment.steps} steps: {others}.",
        behind,
    )


def stopped_alone(moment: Moment, now: float) -> Ending | None:
    """Return the ending for a rank that was asked to stop and whose other ranks are already gone, or None."""
    if moment.waits or moment.phase not in (Phase.TRAIN, Phase.EVAL) or moment.steps <= 1:
        return None
    if now - moment.since <= max(STOP_SECONDS, STEPS_UNTIL_STOP * moment.median_step):
        return None
    sentence = "The pod was asked to stop and no step ends any more: the other pods are gone; nothing more is saved."
    return Ending(ExitCode.PREEMPTED, sentence, is_symptom=True)


class Watch:
    """The watch of one rank; a context manager. `leave` writes the rank's exit file and ends the process."""

    def __init__(
        self,
        activity: Activity,
        store: Any,
        rank: int,
        world: int,
        patience: Patience,
        stop_requested: Callable[[], bool],
        stacks: Path,
        beat_file: Path,
        leave: Callable[[Ending], object],
    ) -> None:
        self._activity = activity
        self._store = store
        self._rank = rank
        self._world = world
        self._patience = patience
        self._stop_requested = stop_requested
        self._stacks = stacks
        self._beat_file = beat_file
        self._leave = leave
        self._closing = threading.Event()
        self._beats = 0
        self._heard: dict[int, tuple[str, float]] = {}
        """The last beat of each rank that this one observes, and when the beat last changed."""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()

    def _run(self) -> None:
        try:
            self._watch()
        finally:
            self._beat_file.unlink(missing_ok=True)

    def _watch(self) -> None:
        beat = min(BEAT_SECONDS, self._patience.silent / 4)
        self._touch()
        while not self._closing.wait(beat):
            self._touch()
            try:
                ending = self._look()
            except Exception as error:
                sentence = f"Rank 0's pod does not answer any more ({type(error).__name__})."
                ending = Ending(1, sentence, slowest_rank=0, is_symptom=True)
                # The training thread mostly notices this too, and its error is more precise.
                if self._closing.wait(TELLING_SECONDS):
                    return
            if ending is not None and not self._closing.is_set():
                if ending.exit_code == ExitCode.HUNG:
                    self._write_stacks()
                self._leave(ending)
                return

    def _touch(self) -> None:
        with contextlib.suppress(OSError):  # the disk may be full
            self._beat_file.touch()

    def _look(self) -> Ending | None:
        now, moment = time.monotonic(), self._activity.look()
        self._beats += 1
        self._store.set(f"beat/{self._rank}", f"{self._beats} {moment.ticks}")
        if self._store.check([CALLED_OUT]):
            self._store.add("told", 1)
            return self._called_out(self._store.get(CALLED_OUT))
        self._listen(now, range(self._world) if self._rank == 0 else range(1))
        silent = {rank for rank, (_, at) in self._heard.items() if now - at > self._patience.silent}
        if silent:
            return self._call_out(hung(moment, self._rank, self._ticks(), silent, self._patience.silent))
        if self._stop_requested() and moment.phase in BEFORE_TRAINING:
            return self._call_out(Ending(ExitCode.PREEMPTED, STOPPED_BEFORE))
        if self._stop_requested() and (alone := stopped_alone(moment, now)):
            return alone
        seconds = now - moment.since
        if seconds > patience_with(moment, self._patience):
            self._listen(now, range(self._world))
            return self._call_out(hung(moment, self._rank, self._ticks(), silent, seconds))
        return None

    def _listen(self, now: float, ranks: range) -> None:
        keys = [f"beat/{rank}" for rank in ranks if rank != self._rank]
        if not keys or not self._store.check(keys):
            return
        for key, beat in zip(keys, self._store.multi_get(keys), strict=True):
            rank, text = int(key.removeprefix("beat/")), beat.decode()
            if rank not in self._heard or self._heard[rank][0] != text:
                self._heard[rank] = (text, now)

    def _ticks(self) -> dict[int, int]:
        return {rank: int(text.split()[1]) for rank, (text, _) in self._heard.items()}

    def _call_out(self, ending: Ending) -> Ending:
        """Publish the ending and give the others time to read it, because the store may end with this process.

        If several ranks publish one, the first counts.
        """
        first = self._store.compare_set(
            CALLED_OUT, "", json.dumps([int(ending.exit_code), ending.sentence, ending.slowest_rank])
        )
        deadline = time.monotonic() + TELLING_SECONDS
        while self._store.add("told", 0) < self._world - 1 and time.monotonic() < deadline:
            if self._closing.wait(0.1):
                break
        # The others must write their exit files before they notice that this process has ended.
        self._closing.wait(LEAD_SECONDS)
        return ending if ending.exit_code == ExitCode.PREEMPTED else self._called_out(first)

    @staticmethod
    def _called_out(words: bytes) -> Ending:
        code, sentence, slowest_rank = json.loads(words)
        return Ending(code, sentence, slowest_rank, is_symptom=code == ExitCode.PREEMPTED)

    def _write_stacks(self) -> None:
        try:
            self._stacks.parent.mkdir(parents=True, exist_ok=True)
            with self._stacks.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:
            return
