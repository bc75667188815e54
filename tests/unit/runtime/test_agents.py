"""The answers that are accepted: each pod of the attempt may report only itself, in numbers that a status can hold."""

from __future__ import annotations

import json
import logging
from typing import Any, cast

import pytest

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.core.observed.views import PodView
from finetune_operator.core.status import progress
from finetune_operator.protocol import Cluster, Object
from finetune_operator.runtime.agents import ask
from finetune_trainer.contract import MAX_STATUS_BYTES, PodStatus

NODES, PROCESSES = 2, 2
RUN = RunStatus(
    number=1, attempt=3, nonce="n0nce", generation=1, recipe="r", config_digest="c" * 64,
    start_time="2026-01-01T00:00:00Z", nodes=NODES, world=NODES * PROCESSES, zero_stage=2, claim_name="finetune",
)  # fmt: skip


def pod(index: Any) -> Object:
    """Return a pod as the API returns it."""
    labels = {constants.LABEL_INDEX: str(index)}
    metadata = {"name": f"pod-{index}", "uid": f"uid-{index}", "labels": labels}
    return {"metadata": metadata, "spec": {}, "status": {"podIP": f"10.0.0.{index}"}}


def rank(number: Any, **changes: Any) -> dict[str, Any]:
    told = {
        "rank": number, "world": RUN.world, "configDigest": RUN.config_digest, "backend": "gloo", "zeroStage": 2,
        "phase": "train", "step": 5, "heartbeat": 1_800_000_000.0,
    }  # fmt: skip
    return told | changes


def answer(of: int, **changes: Any) -> dict[str, Any]:
    """Return an honest agent's answer with these changes."""
    own = range(of * PROCESSES, (of + 1) * PROCESSES)
    told = {
        "podUid": f"uid-{of}", "attempt": RUN.attempt, "nonce": RUN.nonce, "index": of,
        "ranks": [rank(number) for number in own],
    } | ({"progress": figures()} if of == 0 else {})  # fmt: skip
    return told | changes


def figures(**changes: Any) -> dict[str, Any]:
    return {"step": 5, "totalSteps": 30, "epoch": 0.5, "loss": 0.25, "etaSeconds": 9.0} | changes


class Pods:
    """A cluster whose pods give the test's answers."""

    def __init__(self, *answers: dict[str, Any] | bytes | None) -> None:
        self.bodies = [json.dumps(told).encode() if isinstance(told, dict) else told for told in answers]

    async def pod_status(self, pod: Object, port: int, path: str, limit: int, timeout: float) -> bytes | None:
        assert (port, path, limit, timeout <= 2) == (8471, "/status", MAX_STATUS_BYTES, True)
        return self.bodies[int(pod["metadata"]["name"].removeprefix("pod-"))]


async def heard(*answers: dict[str, Any] | bytes | None) -> dict[str, PodStatus]:
    """Return what is accepted of these answers of pods 0, 1 and so on."""
    cluster = cast(Cluster, Pods(*answers))
    return await ask(cluster, RUN, "default", [PodView.of(pod(index)) for index in range(len(answers))], 8471)


async def test_honest_answers_complete_the_world() -> None:
    answers = await heard(answer(0), answer(1))
    assert sorted(answers) == ["uid-0", "uid-1"]
    assert progress.world_complete(RUN, answers.values())


async def test_an_answer_with_another_pods_uid_is_dropped() -> None:
    """A pod's address may lead to another pod."""
    assert sorted(await heard(answer(0), answer(0))) == ["uid-0"]
    assert sorted(await heard(answer(1), answer(1))) == ["uid-1"]


@pytest.mark.parametrize(
    "changes", [{"nonce": ""}, {"nonce": "n0nce "}, {"nonce": "x" * 10_000}, {"nonce": "n0nc\u0435"}]
)
async def test_an_answer_with_a_wrong_nonce_is_dropped(changes: dict[str, Any]) -> None:
    assert await heard(answer(0, **changes)) == {}


@pytest.mark.parametrize("attempt", [0, 2, 4, -3, 10**30])
async def test_an_answer_of_another_attempt_is_dropped(attempt: int) -> None:
    assert await heard(answer(0, attempt=attempt)) == {}


@pytest.mark.parametrize("index", [1, -1, 2, 10**30])
async def test_an_answer_with_another_index_than_the_pods_is_dropped(index: int) -> None:
    assert await heard(answer(0, index=index)) == {}


@pytest.mark.parametrize("label", ["", "x", "-1", "²", "9" * 5000, "0\n"])
async def test_a_pod_with_a_forged_index_is_not_heard(label: str) -> None:
    cluster = cast(Cluster, Pods())
    forged = pod(0)
    forged["metadata"]["labels"][constants.LABEL_INDEX] = label

    class Answering(Pods):
        async def pod_status(self, *_: Any) -> bytes | None:
            return json.dumps(answer(0)).encode()

    cluster = cast(Cluster, Answering())
    assert await ask(cluster, RUN, "default", [PodView.of(forged)], 8471) == {}


@pytest.mark.parametrize("numbers", [[0, 1], [2, 3, 0], [1, 2], [2, 4], [-1], [10**30], [0, 1, 2, 3]])
async def test_a_pod_cannot_attest_ranks_that_are_not_its_own(numbers: list[int]) -> None:
    told = answer(1, ranks=[rank(number) for number in numbers])
    assert sorted(await heard(answer(0), told)) == ["uid-0"]


async def test_a_pod_cannot_attest_a_rank_twice() -> None:
    assert await heard(None, answer(1, ranks=[rank(2), rank(2)])) == {}


async def test_a_pod_without_rank_0_has_no_progress_to_tell() -> None:
    answers = await heard(answer(0), answer(1, progress=figures(step=29)))
    assert sorted(answers) == ["uid-0"]


async def test_a_rank_of_another_world_or_configuration_has_not_attested() -> None:
    answers = await heard(answer(0), answer(1, ranks=[rank(2, world=2), rank(3, configDigest="d" * 64)]))
    assert sorted(answers) == ["uid-0", "uid-1"]
    assert not progress.world_complete(RUN, answers.values())


WILD = ["NaN", "Infinity", "-Infinity", "-1", "1e300", "1" + "0" * 30, "1" + "0" * 5000, '"5"x', "[]", "{}"]


@pytest.mark.parametrize("figure", WILD)
@pytest.mark.parametrize("name", ["step", "totalSteps", "epoch", "etaSeconds", "rank.heartbeat", "rank.step"])
async def test_a_figure_that_no_status_can_hold_makes_the_answer_worthless(name: str, figure: str) -> None:
    mark = 0.123454321
    if name.startswith("rank."):
        told = answer(0, ranks=[rank(0, **{name.removeprefix("rank."): mark})])
    else:
        told = answer(0, progress=figures(**{name: mark}))
    body = json.dumps(told).replace(str(mark), figure).encode()
    assert await heard(body) == {}


@pytest.mark.parametrize("loss", ["1e12", "-1e12", "NaN", "Infinity"])
async def test_a_loss_that_no_status_can_hold_makes_the_answer_worthless(loss: str) -> None:
    body = json.dumps(answer(0, progress=figures(loss=0.123454321))).replace("0.123454321", loss).encode()
    assert await heard(body) == {}


async def test_a_loss_below_zero_is_a_loss() -> None:
    """Objectives of other trainers can have such a loss."""
    (told,) = (await heard(answer(0, progress=figures(loss=-3.5)))).values()
    shown = progress.progress_of(RUN, [told], (), None)
    assert shown is not None
    assert shown.loss == -3.5


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 16_000, b'{"a":' * 3000, b"\0" * 100,
     json.dumps(answer(0))[:-1].encode(),
     json.dumps(answer(0, ranks=[rank(0, phase="\x1b[2J")])).encode(),
     json.dumps(answer(0)).replace("uid-0", "\\ud800").encode(), b"<html>"],
)  # fmt: skip
async def test_nonsense_is_no_answer(body: bytes) -> None:
    assert await heard(body) == {}


async def test_what_only_a_newer_image_says_is_left_out_and_the_rest_is_heard() -> None:
    said = answer(0, ranks=[rank(0, phase="publish", temperature=70)], contract=9, weather={"wind": 3})
    (told,) = (await heard(said)).values()
    assert (told.contract, told.ranks[0].phase, told.ranks[0].rank) == (9, "other", 0)


async def test_what_a_pod_says_does_not_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    evil = "\x1b[2J\u202epassword=hunter2 " + "A" * 5000
    assert await heard(answer(0, ranks=[rank(0, phase=evil)]), answer(1, nonce=evil)) == {}
    assert "pod-0 answered nonsense" in caplog.text
    assert not any(word in caplog.text for word in ("hunter2", "\x1b", "\u202e", "AAAA"))
