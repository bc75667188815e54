"""How run.json grows: a field that a later release adds is absent until a job uses it."""

from __future__ import annotations

import json

import pytest
from contract_versions import record
from pydantic import ValidationError

from finetune_trainer.contract import CONTRACT_VERSION, Checkpointing, PodStatus, RunConfig, added, run_config
from finetune_trainer.contract.run_config import NEWER_CONTRACT

TEXT = next(iter(record.runs().values()))["run.json"][0]
LATER = CONTRACT_VERSION + 1


class LaterCheckpointing(Checkpointing):
    """The checkpoint settings of a later release."""

    best: bool = added(False, since=LATER)


class LaterConfig(RunConfig):
    """The run.json of a later release."""

    checkpoint: LaterCheckpointing
    warm_start: str | None = added(None, since=LATER + 1)


@pytest.fixture(autouse=True)
def _later_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_config, "CONTRACT_VERSION", LATER + 1)


def test_a_job_that_uses_nothing_new_has_the_text_and_the_digest_that_an_older_image_computes() -> None:
    later, today = LaterConfig.model_validate_json(TEXT), RunConfig.model_validate_json(TEXT)
    assert later.to_json() == today.to_json() == TEXT
    assert later.digest == today.digest


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({"checkpoint": {"everySeconds": 900.0, "keep": 3, "best": True}}, LATER),
        ({"warmStart": "last"}, LATER + 1),
        ({"warmStart": "last", "checkpoint": {"everySeconds": 900.0, "keep": 3, "best": True}}, LATER + 1),
    ],
)
def test_what_is_new_is_written_with_the_version_that_it_takes_and_read_back_with_the_same_digest(
    changes: dict[str, object], version: int
) -> None:
    config = LaterConfig.model_validate(json.loads(TEXT) | changes)
    written = json.loads(config.to_json())
    assert written["contract"] == version
    assert written.items() >= changes.items()
    read = LaterConfig.model_validate_json(config.to_json())
    assert (read, read.digest) == (config, config.digest)


def test_a_trainer_that_does_not_know_the_version_says_so_whatever_else_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = LaterConfig.model_validate(json.loads(TEXT) | {"warmStart": "last"}).to_json()
    monkeypatch.setattr(run_config, "CONTRACT_VERSION", CONTRACT_VERSION)
    with pytest.raises(ValidationError) as refused:
        RunConfig.model_validate_json(text)
    assert [fault["type"] for fault in refused.value.errors()] == [NEWER_CONTRACT]


def test_an_image_of_the_first_contract_says_nothing_about_contracts() -> None:
    said = PodStatus(**record.POD, contract=1)
    assert "contract" not in said.to_json()
    assert PodStatus.model_validate_json(said.to_json()).contract == 1
    assert json.loads(PodStatus(**record.POD, contract=2).to_json())["contract"] == 2
