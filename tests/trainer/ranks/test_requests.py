"""Requests to stop, to save and to end for a newer attempt."""

from __future__ import annotations

from pathlib import Path

import pytest
from trainer.fixtures_data import run_config, workspace

from finetune_trainer import contract
from finetune_trainer.contract import Checkpointing
from finetune_trainer.errors import SupersededError
from finetune_trainer.pod.paths import Paths
from finetune_trainer.ranks import claim, requests
from finetune_trainer.ranks.requests import Asked, Requests

CONFIG = run_config(checkpoint=Checkpointing(every_seconds=100, keep=3), attempt=2)
NOTHING = Asked(stop=False, save=False, make_way=False)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return workspace(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(requests.time, "monotonic", lambda: now[0])
    return now


def test_any_rank_may_be_asked_to_stop_and_rank_0_alone_saves(paths: Paths, clock: list[float]) -> None:
    first, second = (Requests(CONFIG, paths, rank) for rank in (0, 1))
    assert (first.now(), second.now()) == (NOTHING, NOTHING)
    clock[0] += 100
    assert first.now().save
    assert not second.now().save
    (paths.scratch / contract.STOP_FILE).touch()
    assert first.now().stop
    assert second.now().stop


def test_a_checkpoint_is_due_by_time_since_the_last(paths: Paths, clock: list[float]) -> None:
    asked = Requests(CONFIG, paths, 0)
    clock[0] += 99
    assert asked.now() == NOTHING
    clock[0] += 1
    assert asked.now().save
    asked.saved()
    assert asked.now() == NOTHING


def test_a_new_request_asks_once(paths: Paths, clock: list[float]) -> None:
    asked = Requests(CONFIG, paths, 0)
    request = paths.scratch / contract.CHECKPOINT_REQUEST_FILE
    request.write_text("before the upgrade")
    assert asked.now().save
    asked.saved()
    assert asked.now() == NOTHING
    assert asked.answered == "before the upgrade"
    request.write_text("once more")
    assert asked.now().save


def test_an_attempt_makes_way_for_a_newer_one(paths: Paths, clock: list[float]) -> None:
    claim.claim(CONFIG, paths)
    asked = Requests(CONFIG, paths, 0)
    clock[0] += requests.SECONDS_BETWEEN_LOOKS
    assert asked.now() == NOTHING
    claim.claim(CONFIG.model_copy(update={"attempt": 3}), paths)
    assert asked.now() == NOTHING, "a volume is not looked at in every step"
    clock[0] += requests.SECONDS_BETWEEN_LOOKS
    assert asked.now().make_way
    with pytest.raises(SupersededError, match="attempt 3 of the run has begun; attempt 2 makes way"):
        claim.claim(CONFIG, paths)


def test_a_claim_that_someone_spoilt_holds_nobody_up(paths: Paths) -> None:
    claim.claim(CONFIG, paths)
    (paths.run(CONFIG) / claim.CLAIM_FILE).write_text("three")
    claim.claim(CONFIG, paths)
