"""Learning rates, weight decay, and gradients summed in fp32."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trainer import tiny

from finetune_trainer.contract import Training
from finetune_trainer.model.optimizer import adamw, learning_rate, reduce_summed, sum_in_fp32


def training(**changes: Any) -> Training:
    return tiny.run_config(tiny.SEQUENCE, Path("/model"), Path("/rows.jsonl"), **changes).training


def rates(steps: int, **changes: Any) -> list[float]:
    recipe = training(learning_rate=1.0, **changes)
    return [learning_rate(recipe, step, steps) for step in range(steps)]


def test_the_rate_rises_in_equal_parts_and_then_falls_to_zero_linearly() -> None:
    assert rates(8, warmup_fraction=0.5) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25])


def test_the_rate_falls_along_a_cosine() -> None:
    assert rates(4, warmup_fraction=0.0, schedule="cosine") == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_all_steps_may_be_warm_up() -> None:
    assert rates(4, warmup_fraction=1.0) == pytest.approx([0.25, 0.5, 0.75, 1])


def test_biases_and_norms_do_not_decay() -> None:
    config = tiny.run_config(tiny.SEQUENCE, Path("/model"), Path("/rows.jsonl"), weight_decay=0.3)
    model = tiny.AUTO_CLASSES[tiny.SEQUENCE].from_config(tiny.bert())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {
        names[id(parameter)]: group["weight_decay"]
        for group in adamw(model, config).param_groups
        for parameter in group["params"]
    }
    assert decays.keys() == set(names.values())
    for name, decay in decays.items():
        assert decay == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.3), name


def test_what_is_frozen_is_not_optimized() -> None:
    config = tiny.run_config(tiny.SEQUENCE, Path("/model"), Path("/rows.jsonl"))
    model = tiny.AUTO_CLASSES[tiny.SEQUENCE].from_config(tiny.bert())
    model.bert.requires_grad_(False)
    assert sum(len(group["params"]) for group in adamw(model, config).param_groups) == 2


def test_bf16_gradients_add_up_in_fp32_and_a_parameter_that_no_step_used_has_zeros() -> None:
    module = torch.nn.ParameterDict({name: torch.zeros(2, dtype=torch.bfloat16) for name in ("used", "unused")})
    reduced: list[int] = []
    engine = SimpleNamespace(
        module=module,
        enable_backward_allreduce=True,
        allreduce_gradients=lambda bucket_size: reduced.append(bucket_size),
    )
    sum_in_fp32(engine)
    for slope in (1.0, 2**-9, 2**-9):
        (module["used"] * torch.tensor(slope, dtype=torch.bfloat16)).sum().backward()
    reduce_summed(engine)
    assert not engine.enable_backward_allreduce
    assert module["used"].grad.tolist() == [1 + 2**-8] * 2
    assert module["unused"].grad.tolist() == [0.0] * 2
    assert {parameter.grad.dtype for parameter in module.values()} == {torch.float32}
    assert len(reduced) == 1
