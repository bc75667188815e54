"""NetworkPolicies of older configurations of the operator are deleted when no pod needs them any longer."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from support.bench import KEY, SETTINGS, Bench, bench
from support.clusters import condition, run_of
from support.manifests import changed, manifest

from finetune_operator.constants import Phase
from finetune_operator.core.settings import Network
from finetune_operator.protocol import FINETUNEJOBS, NETWORKPOLICIES, Object
from finetune_operator.runtime.attempt_children import LASTS
from finetune_operator.runtime.job_memory import JobMemories
from finetune_operator.runtime.reconciler import Reconciler

NARROW = replace(SETTINGS, network=Network())
WIDE = replace(SETTINGS, network=Network(egress=({"ports": [{"protocol": "TCP", "port": 443}]},)))


def configured_anew(made: Bench) -> None:
    """Replace the operator by one that remembers nothing and whose jobs may reach more."""
    made.reconciler = Reconciler(made.cluster, WIDE, JobMemories(), now=lambda: made.now)


async def of_pod(made: Bench, attempt: int) -> tuple[Object, str]:
    """Return the attempt's first pod and the name of the policy that applies to it."""
    await made.reconcile_until(lambda s: s.run and s.run.attempt == attempt and s.run.job_uid)
    pod, *_ = await made.world.pods_of_attempt(attempt, 1)
    return pod, pod["metadata"]["labels"]["finetune.dev/network-policy"]


async def policies(made: Bench) -> set[str]:
    return {policy["metadata"]["name"] for policy in await made.cluster.list(NETWORKPOLICIES, "default")}


async def begun(made: Bench, **spec: object) -> tuple[Object, str]:
    made.reconciler = Reconciler(made.cluster, NARROW, JobMemories(), now=lambda: made.now)
    await made.cluster.create(FINETUNEJOBS, manifest(**spec))
    return await of_pod(made, 1)


async def test_an_older_policy_stays_as_long_as_its_pods_and_goes_with_the_next_attempt() -> None:
    async with bench() as made:
        pod, old = await begun(made)
        configured_anew(made)
        await made.reconciler.reconcile(KEY)
        assert await policies(made) == {old}, "the attempt goes on with its own"
        made.world.driver.finish(pod, 1)
        _, new = await of_pod(made, 2)
        assert old != new
        assert await policies(made) == {new}


async def test_an_older_policy_of_pods_that_were_still_ending_goes_ten_minutes_later() -> None:
    async with bench() as made:
        made.world.driver.sigterm_exit_code = None
        _, old = await begun(made, **{"spec.resources": {"nodes": 2, "gpusPerNode": 0}})
        configured_anew(made)
        first, second = await made.world.pods_of_attempt(1, 2)
        made.world.driver.finish(first, 1)
        made.now = datetime.now(UTC) + timedelta(seconds=10)  # the pods have real times
        await made.reconcile_until(lambda s: s.run and s.run.attempt == 2 and s.run.job_uid)
        new = (await policies(made)) - {old}
        assert await policies(made) == {old, *new}, "a pod of the first attempt still saves"
        made.world.driver.finish(second, 75)
        made.now += timedelta(seconds=LASTS)
        await made.reconciler.reconcile(KEY)
        assert await policies(made) == new


async def test_after_its_time_the_policies_of_all_configurations_go_and_those_of_others_stay() -> None:
    async with bench() as made:
        pod, old = await begun(made, **{"spec.ttlSecondsAfterFinished": 60})
        (policy,) = await made.cluster.list(NETWORKPOLICIES, "default")
        theirs = {"metadata.name": "theirs", "metadata.ownerReferences": []}
        await made.cluster.create(NETWORKPOLICIES, changed(policy, theirs))
        configured_anew(made)
        await made.world.succeed([pod])
        await made.reconcile_until(lambda s: s.phase == Phase.COMPLETE)
        assert await policies(made) == {old, "theirs"}
        made.now += timedelta(seconds=61)
        await made.reconciler.reconcile(KEY)
        assert await policies(made) == {"theirs"}


async def test_a_policy_that_was_deleted_is_replaced_with_its_attempt_under_another_configuration() -> None:
    async with bench() as made:
        _, old = await begun(made)
        configured_anew(made)
        await made.cluster.delete(NETWORKPOLICIES, "default", old)
        _, new = await of_pod(made, 2)
        status = await made.world.status()
        assert (run_of(status).attempt, status.ledger[0].class_) == (2, "Preempted")
        assert await policies(made) == {new} - {old}
        assert condition(status, "Stalled")[0] == "False"
