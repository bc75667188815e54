"""DeepSpeed's configuration: how the operator's plan and the user's keys are combined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trainer import tiny

from finetune_trainer.contract import RunConfig
from finetune_trainer.deepspeed_config import PLANNED, deepspeed_config, sums_gradients_itself
from finetune_trainer.errors import InvalidError


def config(**changes: Any) -> RunConfig:
    return tiny.run_config(tiny.SEQUENCE, Path("/model"), Path("/rows.jsonl"), **changes)


def raw_key(path: str, value: Any) -> dict[str, Any]:
    """Return {"a": {"b": value}} for the path "a.b"."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def test_the_users_keys_come_beside_the_planned_ones() -> None:
    raw = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}, "wall_clock_breakdown": True}
    merged = deepspeed_config(config(stage=2, deepspeed=raw))
    assert merged["zero_optimization"]["stage"] == 2
    assert merged["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert merged["wall_clock_breakdown"] is True


def test_the_users_value_wins_over_a_default_that_is_not_planned() -> None:
    merged = deepspeed_config(config(stage=2, deepspeed={"zero_optimization": {"reduce_bucket_size": 1000}}))
    assert merged["zero_optimization"]["reduce_bucket_size"] == 1000


@pytest.mark.parametrize("key", PLANNED)
def test_a_planned_key_is_refused_by_name_even_with_the_same_value(key: str) -> None:
    with pytest.raises(InvalidError, match=rf"^deepspeed\.config: {key} is planned .*{PLANNED[key].split()[0]}"):
        deepspeed_config(config(stage=2, deepspeed=raw_key(key, 2)))


@pytest.mark.parametrize("raw", [{"bf16": {"enabled": True}}, {"optimizer": {"params": {"lr": 1}}}])
def test_what_is_below_a_planned_key_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match="is planned by the operator"):
        deepspeed_config(config(deepspeed=raw))


def test_a_value_in_the_place_of_planned_keys_is_refused() -> None:
    with pytest.raises(InvalidError, match="zero_optimization is planned"):
        deepspeed_config(config(deepspeed={"zero_optimization": True}))


def test_deepspeed_clips_unless_it_would_not_report_the_norm() -> None:
    assert deepspeed_config(config(stage=0))["gradient_clipping"] == 0
    assert deepspeed_config(config(stage=1))["gradient_clipping"] == 1.0
    assert deepspeed_config(config(stage=0, precision="bf16"))["gradient_clipping"] == 1.0


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_gradients_are_summed_in_fp32_wherever_deepspeed_can(stage: int) -> None:
    assert deepspeed_config(config(stage=stage, precision="bf16"))["data_types"] == {"grad_accum_dtype": "fp32"}
    assert not sums_gradients_itself(config(stage=stage, precision="bf16"))


def test_bf16_without_sharding_sums_gradients_itself() -> None:
    assert "data_types" not in deepspeed_config(config(stage=0, precision="bf16"))
    assert sums_gradients_itself(config(stage=0, precision="bf16"))
    assert not sums_gradients_itself(config(stage=0))


def test_gradients_travel_in_fp32_where_they_travel_once_in_a_step_unless_the_user_says_otherwise() -> None:
    travels = "communication_data_type"
    assert [deepspeed_config(config(stage=stage, precision="bf16")).get(travels) for stage in range(4)] == [
        "fp32",
        "fp32",
        None,
        None,
    ]
    assert deepspeed_config(config(stage=1, precision="bf16", deepspeed={travels: "bf16"}))[travels] == "bf16"
