"""Several operators with one lease: who acts, for how long, and who is next.

Time is virtual and the cluster is in memory.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.manifests import manifest
from support.operators import Operator, Scene, away, in_virtual_time, no_leases, silent_about_leases

from finetune_operator.core.leadership import ACT_FOR, LEASE_SECONDS, LOOK_EVERY, RENEW_EVERY
from finetune_operator.protocol import FINETUNEJOBS, LEASES, PODS, Object, Resource

BEAT = 0.6
"""Seconds within which the leader reconciles the job."""
TAKEN_OVER = LEASE_SECONDS + LOOK_EVERY + BEAT
"""Seconds after a lease's last renewal within which a new holder acts."""
Fault = Callable[[Resource], Awaitable[None]]


async def leader_and_standby(scene: Scene) -> tuple[Operator, Operator]:
    await scene.cluster.create(FINETUNEJOBS, manifest())
    leader = scene.start("one")
    await scene.until(lambda: scene.times(leader))
    standby = scene.start("other")
    await asyncio.sleep(30)
    assert leader.leads
    assert not standby.leads
    assert scene.times(standby) == []
    assert scene.loop.time() - scene.times(leader)[-1] < BEAT
    return leader, standby


def test_one_of_two_works_and_both_are_ready() -> None:
    async def scene(scene: Scene) -> None:
        leader, standby = await leader_and_standby(scene)
        assert (leader.health.unready, standby.health.unready) == (None, None)
        assert (await scene.lease())["spec"]["holderIdentity"] == "one"
        assert (await scene.lease())["spec"]["leaseTransitions"] == 0

    in_virtual_time(scene)


def test_of_two_that_start_at_once_one_leads() -> None:
    async def scene(scene: Scene) -> None:
        await scene.cluster.create(FINETUNEJOBS, manifest())
        both = [scene.start("one"), scene.start("other")]
        await asyncio.sleep(20)
        assert sorted(operator.leads for operator in both) == [False, True]
        assert len({act.by for act in scene.acts}) == 1

    in_virtual_time(scene)


def test_the_next_one_leads_within_seconds_when_the_first_ends_properly() -> None:
    async def scene(scene: Scene) -> None:
        leader, standby = await leader_and_standby(scene)
        ended = scene.loop.time() + await leader.ended()
        assert (await scene.lease())["spec"]["holderIdentity"] == ""
        await scene.until(lambda: scene.times(standby))
        assert scene.times(leader)[-1] <= ended < scene.times(standby)[0] <= ended + LOOK_EVERY + BEAT

    in_virtual_time(scene)


def test_the_next_one_leads_when_the_lease_of_one_that_was_killed_expires() -> None:
    async def scene(scene: Scene) -> None:
        leader, standby = await leader_and_standby(scene)
        killed = scene.loop.time()
        await leader.killed()
        assert (await scene.lease())["spec"]["holderIdentity"] == "one"
        await scene.until(lambda: scene.times(standby))
        assert killed + LEASE_SECONDS - RENEW_EVERY <= scene.times(standby)[0] <= killed + TAKEN_OVER
        assert (await scene.lease())["spec"]["leaseTransitions"] == 1

    in_virtual_time(scene)


@pytest.mark.parametrize("fault", [no_leases, silent_about_leases], ids=lambda fault: fault.__name__)
def test_who_cannot_renew_stops_before_the_next_one_begins_and_waits_like_the_others(fault: Fault) -> None:
    async def scene(scene: Scene) -> None:
        leader, standby = await leader_and_standby(scene)
        leader.connection.fault = fault
        cut = scene.loop.time()
        await scene.until(lambda: not leader.leads)
        stopped = scene.loop.time()
        assert stopped <= cut + ACT_FOR + 0.1
        await scene.until(lambda: scene.times(standby))
        assert scene.times(leader)[-1] <= stopped < scene.times(standby)[0] <= cut + TAKEN_OVER
        await scene.until(lambda: leader.health.unready)
        assert not leader.task.done()

        leader.connection.fault = None
        await scene.until(lambda: leader.health.unready is None)
        await standby.killed()
        again = scene.loop.time()
        await scene.until(lambda: leader.leads)
        assert scene.loop.time() <= again + TAKEN_OVER
        await scene.until(lambda: scene.times(leader)[-1] > again)

    in_virtual_time(scene)


def test_an_api_server_that_is_away_for_less_than_the_deadline_costs_nobody_the_lead() -> None:
    async def scene(scene: Scene) -> None:
        leader, standby = await leader_and_standby(scene)
        for operator in (leader, standby):
            operator.connection.fault = away
        await asyncio.sleep(ACT_FOR - RENEW_EVERY - 1)
        for operator in (leader, standby):
            operator.connection.fault = None
        await asyncio.sleep(60)
        assert leader.leads
        assert scene.times(standby) == []

    in_virtual_time(scene)


def test_an_api_server_that_is_away_for_all_leaves_none_at_work_and_then_one() -> None:
    async def scene(scene: Scene) -> None:
        both = await leader_and_standby(scene)
        for operator in both:
            operator.connection.fault = away
        await asyncio.sleep(120)
        assert not any(operator.leads for operator in both)
        for operator in both:
            operator.connection.fault = None
        await scene.until(lambda: any(operator.leads for operator in both), LOOK_EVERY + 1)
        await asyncio.sleep(60)
        assert sorted(operator.leads for operator in both) == [False, True]

    in_virtual_time(scene)


def overlap(scene: Scene, leader: Operator, standby: Operator) -> float:
    """Return for how many seconds both operators have acted."""
    return scene.times(leader)[-1] - scene.times(standby)[0]


@pytest.mark.parametrize(
    ("leader_s_rate", "standby_s_rate", "most"),
    [(1, 1, 0), (0.7, 1, 0), (1, 1.4, 0), (0.5, 1, ACT_FOR / 0.5 - LEASE_SECONDS), (1, 3, ACT_FOR - LEASE_SECONDS / 3)],
)
def test_two_act_at_once_only_when_a_clock_is_wrong_by_half_and_then_not_for_long(
    leader_s_rate: float, standby_s_rate: float, most: float
) -> None:
    async def scene(scene: Scene) -> None:
        await scene.cluster.create(FINETUNEJOBS, manifest())
        leader = scene.start("one", clock=lambda: 1000 + scene.loop.time() * leader_s_rate)
        await scene.until(lambda: scene.times(leader))
        standby = scene.start("other", clock=lambda: scene.loop.time() * standby_s_rate)
        await asyncio.sleep(4)
        leader.connection.fault = no_leases
        await scene.until(lambda: scene.times(standby))
        await asyncio.sleep(60)
        assert not leader.leads
        if most:
            assert 0 < overlap(scene, leader, standby) <= most
        else:
            assert overlap(scene, leader, standby) <= 0
        # Overlap is harmless: a write is refused unless it is based on the newest version, and nothing is created
        # twice.
        run = scene.status().run
        assert run is not None
        assert (run.number, run.attempt, scene.status().ledger) == (1, 1, [])
        assert scene.status().phase == "Training"

    in_virtual_time(scene)


def test_a_lease_that_somebody_deletes_stays_with_its_holder() -> None:
    async def scene(scene: Scene) -> None:
        leader, standby = await leader_and_standby(scene)
        await scene.cluster.delete(LEASES, "ops", "finetune-operator")
        await asyncio.sleep(60)
        assert (await scene.lease())["spec"]["holderIdentity"] == "one"
        assert leader.leads
        assert scene.times(standby) == []

    in_virtual_time(scene)


def foreign(**metadata: Any) -> Object:
    spec = {"holderIdentity": "", "leaseDurationSeconds": 15}
    metadata = {"namespace": "ops", "name": "finetune-operator", **metadata}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def test_a_lease_of_that_name_of_somebody_else_s_is_not_touched_and_told() -> None:
    async def scene(scene: Scene) -> None:
        created = await scene.cluster.create(LEASES, foreign())
        await scene.cluster.create(FINETUNEJOBS, manifest())
        operator = scene.start("one")
        await asyncio.sleep(60)
        assert await scene.lease() == created
        assert operator.health.unready == (
            "Lease ops/finetune-operator was not made by an operator; delete it, or give the operator another leaseName"
        )
        assert scene.acts == []
        await scene.cluster.delete(LEASES, "ops", "finetune-operator")
        await scene.until(lambda: scene.times(operator))
        assert operator.health.unready is None

    in_virtual_time(scene)


def test_operators_with_different_leases_do_not_wait_for_each_other() -> None:
    async def scene(scene: Scene) -> None:
        both = scene.start("one", lease="a"), scene.start("other", lease="b")
        await scene.until(lambda: all(operator.leads for operator in both), 5)

    in_virtual_time(scene)


def test_who_starts_again_under_its_old_name_leads_at_once() -> None:
    async def scene(scene: Scene) -> None:
        leader, _ = await leader_and_standby(scene)
        await leader.killed()
        began = scene.loop.time()
        again = scene.start("one")
        await scene.until(lambda: scene.times(again)[-1] > began)
        assert scene.loop.time() - began < BEAT + 0.1

    in_virtual_time(scene)


def test_who_cannot_read_jobs_does_not_take_the_lease() -> None:
    async def scene(scene: Scene) -> None:
        async def no_jobs(resource: Resource) -> None:
            if resource == FINETUNEJOBS:
                await away(resource)

        blind = scene.start("one")
        blind.connection.fault = no_jobs
        await asyncio.sleep(60)
        assert await scene.cluster.list(LEASES, "ops") == []
        seeing = scene.start("other")
        await scene.until(lambda: seeing.leads, 5)

    in_virtual_time(scene)


def test_a_standby_knows_how_a_pod_has_ended_that_was_gone_before_it_led() -> None:
    async def scene(scene: Scene) -> None:
        leader, standby = await leader_and_standby(scene)
        await leader.killed()
        pod = await scene.pod()
        scene.driver.finish(pod, 1, "")
        await scene.cluster.delete(PODS, "default", pod["metadata"]["name"])
        await scene.until(lambda: scene.status().ledger)
        (entry,) = scene.status().ledger
        assert (entry.class_, entry.exit_code, entry.pod) == ("Infrastructure", 1, pod["metadata"]["name"])
        assert standby.leads

    in_virtual_time(scene)


def test_who_loses_the_lease_and_has_it_again_still_knows_how_a_pod_has_ended() -> None:
    async def scene(scene: Scene) -> None:
        await scene.cluster.create(FINETUNEJOBS, manifest())
        operator = scene.start("one")
        await scene.until(lambda: scene.status().phase == "Training")
        operator.connection.fault = away
        pod = await scene.pod()
        scene.driver.finish(pod, 1, "")
        await scene.cluster.delete(PODS, "default", pod["metadata"]["name"])
        await scene.until(lambda: not operator.leads)
        operator.connection.fault = None
        await scene.until(lambda: scene.status().ledger)
        (entry,) = scene.status().ledger
        assert (entry.class_, entry.exit_code) == ("Infrastructure", 1)

    in_virtual_time(scene)


def test_nothing_but_the_lease_is_written_while_nothing_happens() -> None:
    async def scene(scene: Scene) -> None:
        leader = scene.start("one")
        await scene.until(lambda: leader.leads)
        before = int((await scene.lease())["metadata"]["resourceVersion"])
        await asyncio.sleep(60)
        renewals = int((await scene.lease())["metadata"]["resourceVersion"]) - before
        assert scene.acts == []
        assert renewals == 60 / RENEW_EVERY

    in_virtual_time(scene)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_to_three_operators_each_acts_only_in_its_own_turns(seed: int) -> None:
    """The lease counts its holders. If two operators acted at once, the actor would change more often."""

    async def scene(scene: Scene) -> None:
        chance = random.Random(seed)
        await scene.cluster.create(FINETUNEJOBS, manifest())
        names = itertools.count()
        alive = [scene.start(f"operator-{next(names)}") for _ in range(3)]
        for _ in range(25):
            await asyncio.sleep(chance.choice((0.3, 2, 7, 18)))
            chosen = chance.choice(alive)
            fate = chance.choice(("fault", "fault", "mended", "mended", "killed", "ended"))
            if fate in ("killed", "ended"):
                await (chosen.killed() if fate == "killed" else chosen.ended())
                alive[alive.index(chosen)] = scene.start(f"operator-{next(names)}")
            else:
                faults = (no_leases, silent_about_leases, away)
                chosen.connection.fault = chance.choice(faults) if fate == "fault" else None
        for operator in alive:
            operator.connection.fault = None
        await asyncio.sleep(TAKEN_OVER)
        assert [operator.leads for operator in alive].count(True) == 1
        turns = [by for by, _ in itertools.groupby(act.by for act in scene.acts)]
        assert len(turns) > 2, "nothing has happened"
        assert len(turns) <= (await scene.lease())["spec"]["leaseTransitions"] + 1
        status = scene.status()
        assert (status.run and status.run.attempt, status.ledger, status.phase) == (1, [], "Training")

    in_virtual_time(scene)
