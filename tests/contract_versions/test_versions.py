"""Operators and images of different releases understand each other: `v1` holds what a release wrote and read.

A recorded text represents the other side, an image or an operator in use. The records do not change with the code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from contract_versions import record
from pydantic import BaseModel

from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.core.run.resolve import run_config
from finetune_operator.core.settings import Settings
from finetune_trainer.contract import CONTRACT_VERSION, PodStatus, RunConfig, TerminationMessage

VERSIONS = sorted(folder.name for folder in Path(__file__).parent.glob("v[0-9]*"))


def recorded(name: str) -> list[Any]:
    """Return the entries of a recorded file in all versions, as parameters of a test."""
    return [
        pytest.param(entry, id=f"{version}-{key}") for version in VERSIONS for key, entry in load(version, name).items()
    ]


def load(version: str, name: str) -> dict[str, Any]:
    """Load a recorded file of a version."""
    text = (record.FOLDER / version / f"{name}.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


@pytest.mark.parametrize("entry", recorded("runs"))
def test_an_older_image_gets_for_an_older_job_the_very_run_json_that_it_knows(entry: dict[str, Any]) -> None:
    settings = Settings(image=record.IMAGE, allow_remote_code=True)
    job = parse(entry["manifest"])
    configs = [run_config(job, RunStatus.model_validate(run), settings) for run in entry["runs"]]
    assert [config.to_json() for config in configs] == entry["run.json"]
    assert [config.digest for config in configs] == entry["digests"]


@pytest.mark.parametrize("entry", recorded("runs"))
def test_the_run_json_of_an_older_operator_is_read_and_its_digest_attested(entry: dict[str, Any]) -> None:
    read = [RunConfig.model_validate_json(text) for text in entry["run.json"]]
    assert [config.digest for config in read] == entry["digests"]


@pytest.mark.parametrize("entry", recorded("answers"))
def test_an_answer_of_an_older_image_means_what_it_meant(entry: dict[str, Any]) -> None:
    assert_means(PodStatus.model_validate_json(entry["text"]), entry["fields"])


@pytest.mark.parametrize("entry", recorded("endings"))
def test_the_last_word_of_an_older_image_means_what_it_meant(entry: dict[str, Any]) -> None:
    assert_means(TerminationMessage.model_validate_json(entry["text"]), entry["fields"])


@pytest.mark.parametrize("version", VERSIONS)
def test_an_exit_code_of_an_older_image_has_the_class_that_it_had(version: str) -> None:
    assert record.exit_codes().items() >= load(version, "exit_codes").items()


@pytest.mark.parametrize("version", VERSIONS)
def test_an_older_agent_finds_in_its_pod_what_it_found_then(version: str) -> None:
    then, now = load(version, "pod"), record.pod()
    for lists in ("env", "volumeMounts"):
        assert all(entry in now[lists] for entry in then[lists])
    for same in ("command", "terminationMessagePath"):
        assert now[same] == then[same]


@pytest.mark.parametrize("version", VERSIONS)
def test_run_json_takes_away_nothing_that_an_older_image_reads_and_adds_only_what_can_be_absent(version: str) -> None:
    then, now = objects(load(version, "schema")), objects(record.schema())
    for name, old in then.items():
        new = now[name]
        for field, kind in old["properties"].items():
            assert accepts(new["properties"].get(field), kind), f"{name}.{field} is not what it was"
        assert set(new.get("required", ())) == set(old.get("required", ())), name
        for field in new["properties"].keys() - old["properties"].keys():
            since = new["properties"][field].get("x-since-contract", 0)
            assert since > int(version[1:]), f"{name}.{field} is new: declare it with added(default, since=...)"


def test_the_contract_version_is_that_of_the_newest_field() -> None:
    fields = [kind for part in objects(record.schema()).values() for kind in part["properties"].values()]
    assert max([1, *(kind.get("x-since-contract", 1) for kind in fields)]) == CONTRACT_VERSION


def objects(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the objects of a schema, by name."""
    return {"RunConfig": schema, **schema["$defs"]}


def accepts(new: Any, old: Any) -> bool:
    """Return whether a field still has the type and the default that it had.

    It may accept more values than before.
    """
    if new is None:
        return False
    words = ("title", "description")
    old, new = ({k: v for k, v in kind.items() if k not in words} for kind in (old, new))
    if "enum" in old and "enum" in new:
        return set(old.pop("enum")) <= set(new.pop("enum")) and old == new
    return bool(old == new)


def assert_means(read: BaseModel, fields: dict[str, Any]) -> None:
    """Assert that every recorded field still has its recorded value.

    Fields that were added later are not compared.
    """
    found = read.model_dump(mode="json")
    assert same(found, fields), f"{found} is not {fields}"


def same(found: Any, then: Any) -> bool:
    """Return whether `found` contains everything that was recorded, with equal values."""
    if isinstance(then, dict) and isinstance(found, dict):
        return all(name in found and same(found[name], value) for name, value in then.items())
    if isinstance(then, list) and isinstance(found, list):
        return len(found) == len(then) and all(map(same, found, then))
    return bool(found == then)
