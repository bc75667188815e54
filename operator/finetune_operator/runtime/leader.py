"""Holding the Lease, or waiting for it: what core/leadership.py decides, over a cluster.

One task tries again and again. Who holds the lease renews it; who could not for ten seconds, or finds another's name in
it, stops working and waits like the others. A read is spared while nobody else writes: what was written last is put
again, and a conflict tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from finetune_operator.core import leadership
from finetune_operator.core.leadership import ACT_FOR, LOOK_EVERY, RENEW_EVERY, Sighting
from finetune_operator.kube.errors import sentence_of
from finetune_operator.protocol import (
    LEASES,
    AlreadyExistsError,
    ApiError,
    Cluster,
    ConflictError,
    NotFoundError,
    Object,
)
from finetune_operator.runtime.health import Health
from finetune_operator.runtime.observer import utc_now

TRY_FOR = 4.0
"""Seconds for one try: there is time for another one before the holder has to stop."""
TRY_AGAIN = 1.0
"""Seconds after which a holder whose renewal has failed tries again."""
SHORTEST = 0.01
"""Seconds between two tries; also by a clock so slow that none seem to have passed."""
RELEASE_FOR = 2.0
"""Seconds that giving the lease back may take when the operator ends."""

logger = logging.getLogger(__name__)


def loop_time() -> float:
    """Seconds of the event loop's clock, which nobody sets back."""
    return asyncio.get_running_loop().time()


@dataclass(frozen=True)
class Candidate:
    """Which lease it is about, and who wants it."""

    namespace: str
    name: str
    identity: str
    """Of this process, and of none that may run at the same time."""
    clock: Callable[[], float] = loop_time
    now: Callable[[], datetime] = utc_now

    def __str__(self) -> str:
        return f"Lease {self.namespace}/{self.name}"


class Leader:
    """One who leads or waits to; `begin` and `end` are called when that changes."""

    def __init__(
        self,
        cluster: Cluster,
        candidate: Candidate,
        health: Health,
        begin: Callable[[], None],
        end: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._candidate = candidate
        self._health = health
        self._begin, self._end = begin, end
        self._leads = False
        self._renewed: float | None = None
        """When the last renewal that succeeded was asked for, by our clock."""
        self._written: Object | None = None
        """The lease as we wrote it last, if nobody is known to have changed it."""
        self._seen: Sighting | None = None
        self._waits_for: str | None = None
        self._told: str | None = None

    def may_act(self) -> bool:
        """Whether we lead, and the time for it is not over."""
        return self._leads and leadership.may_act(self._renewed, self._candidate.clock())

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await asyncio.sleep(await self._turn())
        finally:
            self._stand_down("it ends")

    async def release(self) -> None:
        """Give the lease back, if we have it, so that another one need not wait. Called when `run` has ended."""
        if self._renewed is None:
            return
        with suppress(ApiError, TimeoutError):
            async with asyncio.timeout(RELEASE_FOR):
                while lease := self._written or await self._read():
                    self._written = None
                    if leadership.sighted(None, lease, 0).holder != self._candidate.identity:
                        return
                    with suppress(ConflictError):
                        await self._cluster.put(LEASES, leadership.released(lease, self._candidate.now()))
                        logger.info("gave %s back", self._candidate)
                        return

    async def _turn(self) -> float:
        """One try; returns the seconds until the next one."""
        try:
            async with asyncio.timeout(min(TRY_FOR, self._left())):
                held = await self._claim()
        except (ConflictError, AlreadyExistsError):
            self._written = None
            if not self.may_act():
                self._stand_down(f"somebody else has written {self._candidate}")
            return SHORTEST  # then to look who
        except TimeoutError:
            self._written = None  # the write may have taken effect
            return self._after_failure(f"{self._candidate} could not be read and written in time")
        except ApiError as error:
            self._written = None
            return self._after_failure(sentence_of(error))
        self._health.leaderless(None)
        self._told = None
        if not held:
            assert self._seen is not None
            self._stand_down(f"{self._seen.holder} has {self._candidate}")
            self._stand_by(self._seen.holder)
            return LOOK_EVERY
        if not self._leads:
            self._leads, self._waits_for = True, None
            logger.info("%s leads by %s", self._candidate.identity, self._candidate)
            self._begin()
        return RENEW_EVERY

    def _left(self) -> float:
        """Seconds that we may still act; without an end for who does not lead."""
        if not self._leads or self._renewed is None:
            return TRY_FOR
        return max(0.0, ACT_FOR - (self._candidate.clock() - self._renewed))

    def _after_failure(self, sentence: str) -> float:
        if self.may_act():
            if sentence != self._told:
                logger.warning("%s was not renewed: %s", self._candidate, sentence)
            self._told = sentence
            return max(SHORTEST, min(TRY_AGAIN, self._left()))
        self._stand_down(sentence)
        self._health.leaderless(sentence)
        return LOOK_EVERY

    def _stand_by(self, holder: str) -> None:
        if holder != self._waits_for:
            self._waits_for = holder
            logger.info("%s stands by: %s leads by %s", self._candidate.identity, holder, self._candidate)

    def _stand_down(self, why: str) -> None:
        if self._leads:
            self._leads = False
            logger.warning("%s leads no more: %s", self._candidate.identity, why)
            self._end()

    async def _claim(self) -> bool:
        """Take or renew the lease; False if somebody else has it. Raises ApiError."""
        candidate = self._candidate
        lease = self._written or await self._read()
        asked = candidate.clock()
        if lease is None:
            if self._seen and not leadership.may_take(self._seen, candidate.identity, asked):
                return False  # somebody has deleted it, and its holder does not know yet
            new = leadership.new_lease(candidate.namespace, candidate.name, candidate.identity, candidate.now())
            self._written = await self._cluster.create(LEASES, new)
        else:
            if not leadership.is_operator_s(lease):
                message = f"{candidate} was not made by an operator; delete it, or give the operator another leaseName"
                raise ApiError(0, "NotOurs", message)
            self._seen = leadership.sighted(self._seen, lease, asked)
            if not leadership.may_take(self._seen, candidate.identity, asked):
                return False
            self._written = await self._cluster.put(
                LEASES, leadership.held_by(lease, candidate.identity, candidate.now())
            )
        self._renewed = asked
        return True

    async def _read(self) -> Object | None:
        try:
            return await self._cluster.get(LEASES, self._candidate.namespace, self._candidate.name)
        except NotFoundError:
            return None
