"""Holds the Lease, or waits for it, as `core/leadership.py` decides.

One task tries again and again. The holder renews the lease. A holder that could not renew it for ten seconds, or finds
another holder's identity in it, stops working and becomes a standby. To save a read, the holder writes its last version
of the lease again; a conflict shows that somebody else has written it.
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
"""Seconds for one try, so that there is time for another one before the holder must stop."""
TRY_AGAIN = 1.0
"""Seconds after which a holder whose renewal has failed tries again."""
SHORTEST = 0.01
"""Seconds between two tries at least, even if the clock seems to stand still."""
RELEASE_FOR = 2.0
"""Seconds that releasing the lease may take when the operator ends."""

logger = logging.getLogger(__name__)


def loop_time() -> float:
    """Return the seconds of the event loop's clock, which is never set back."""
    return asyncio.get_running_loop().time()


@dataclass(frozen=True)
class Candidate:
    """The lease, and the identity of the process that wants to hold it."""

    namespace: str
    name: str
    identity: str
    """The identity of this process, which no other process that runs at the same time may have."""
    clock: Callable[[], float] = loop_time
    now: Callable[[], datetime] = utc_now

    def __str__(self) -> str:
        return f"Lease {self.namespace}/{self.name}"


class Leader:
    """A leader or standby; `begin` and `end` are called when it gains or loses the leadership."""

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
        """When the last successful renewal was requested, by our clock."""
        self._written: Object | None = None
        """The lease as we last wrote it, unless somebody may have changed it since."""
        self._seen: Sighting | None = None
        self._waits_for: str | None = None
        self._told: str | None = None

    def may_act(self) -> bool:
        """Return whether this process is the leader and its time is not over."""
        return self._leads and leadership.may_act(self._renewed, self._candidate.clock())

    async def run(self) -> None:
        """Hold the lease or wait for it until cancelled."""
        try:
            while True:
                await asyncio.sleep(await self._turn())
        finally:
            self._stand_down("it ends")

    async def release(self) -> None:
        """Release the lease if we hold it, so that no standby has to wait; called when `run` has ended."""
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
        """Try once to take or renew the lease; return the seconds until the next try."""
        try:
            async with asyncio.timeout(min(TRY_FOR, self._left())):
                held = await self._claim()
        except (ConflictError, AlreadyExistsError):
            self._written = None
            if not self.may_act():
                self._stand_down(f"somebody else has written {self._candidate}")
            return SHORTEST  # the next try finds out who holds the lease
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
        """Return the seconds for which the leader may still act; TRY_FOR for a standby."""
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
        """Take or renew the lease; return False if another process holds it. Raises ApiError."""
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
