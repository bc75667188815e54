"""Wrong values that no schema refuses are reported, and a status that somebody else has written is handled."""

from __future__ import annotations

from typing import Any

import pytest
from support.manifests import manifest

from finetune_operator.api.parse import MAX_SENTENCES, InvalidManifestError, InvalidStatusError, parse, read_status

RUN: dict[str, Any] = {
    "number": 1, "attempt": 1, "nonce": "n", "generation": 1, "recipe": "r", "startTime": "2026-01-01T00:00:00Z",
    "nodes": 1, "world": 1, "zeroStage": 2,
}  # fmt: skip


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def sentences(**changes: Any) -> tuple[str, ...]:
    with pytest.raises(InvalidManifestError) as raised:
        parse(manifest(**changes))
    return raised.value.sentences


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spec.deepspeed": {"config": {"a": nested(3000)}}}, "spec.deepspeed.config: is nested more than 32 deep; "),
        ({"spec.deepspeed": {"config": {"a": float("nan")}}}, "spec.deepspeed.config.a: nan is not a finite"),
        ({"spec.training": {"seed": 10**30}}, "spec.training.seed: is beyond the whole numbers of 64 bits; write"),
        ({"spec.task": "a\nb"}, "spec.task: 'a\\nb' is not one of"),
        ({"spec.resources": {"gpusPerNode": 0, "cpu": []}}, "spec.resources.cpu: [] is neither a whole number"),
        ({"spec.podTemplate": {"nodeSelector": {"str": 1}}}, "spec.podTemplate.nodeSelector.str: 1 "),
        ({"spec.podTemplate": {"nodeSelector": {"my_key": 1}}}, "spec.podTemplate.nodeSelector.my_key: 1 "),
    ],
)  # fmt: skip
def test_a_value_that_no_schema_refuses_is_told_with_its_place(changes: dict[str, Any], sentence: str) -> None:
    assert sentences(**changes)[0].startswith(sentence)


def test_a_field_has_the_one_name_that_the_api_server_knows() -> None:
    (told,) = sentences(**{"spec.deepspeed": {"zero_stage": 2}})
    assert told == "spec.deepspeed.zero_stage: there is no such field; did you mean zeroStage?"


def test_a_long_value_leaves_the_remedy_in_sight() -> None:
    (told,) = sentences(**{"spec.model": {"uri": "workspace://../" + "a" * 900}})
    assert told.endswith("write the path without them")
    assert len(told) < 200


def test_many_faults_are_told_in_part() -> None:
    assert len(sentences(**{f"spec.field{number}": 1 for number in range(500)})) == MAX_SENTENCES


@pytest.mark.parametrize(
    "changes",
    [{"startTime": "yesterday"}, {"startTime": "2026-01-01T00:00:00"}, {"startTime": "9999-12-31T00:00:00Z"},
     {"nodes": 0}, {"world": 10**9}, {"attempt": 10**9}, {"number": "one"}, {"zeroStage": 7}, {"failureTimes": [""]}],
)  # fmt: skip
def test_a_run_that_cannot_be_read_is_never_guessed(changes: dict[str, Any]) -> None:
    status = {"phase": "Training", "run": {**RUN, **changes}}
    with pytest.raises(InvalidStatusError, match=r"^status\.run\..*create it again$"):
        parse({**manifest(), "status": status})
    readable, faults = read_status(status)
    assert (readable.phase, readable.run) == ("Training", None)
    assert {field for field, _ in faults} == {"run"}


@pytest.mark.parametrize("told", [{"conditions": [{}]}, {"progress": 1}, {"phase": []}, {"observedGeneration": "x"}])
def test_what_the_operator_only_tells_is_written_anew(told: dict[str, Any]) -> None:
    assert parse({**manifest(), "status": {"run": RUN, **told}}).status.run is not None
