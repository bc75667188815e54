"""Reads and writes what an optimizer step changes, by whole parameters: fp32 masters, Adam's moments and buffers.

A checkpoint holds these instead of DeepSpeed's own shards, so that it fits every ZeRO stage and every number of ranks
without a conversion. Reading gathers one parameter at a time, which all ranks do together. Writing back is each rank's
own work: it takes its part of every whole tensor. DeepSpeed's accessors support stages 1 to 3. At stage 0 every rank
has everything: in fp32 the optimizer is torch's own, and in bf16 the optimizer has an fp32 copy of each parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from deepspeed import zero
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import nn

MASTER = "master"
MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"
"""The number of updates that the parameter has had, which Adam's bias correction uses."""
BUFFER = "buffer"

State = Mapping[str, torch.Tensor]
"""The state of one parameter, by the names above; before its first update it has no moments and no step."""


def trained(engine: Any) -> list[tuple[str, nn.Parameter]]:
    """Return the names and parameters that training changes, in an order that all ranks share."""
    return [(name, parameter) for name, parameter in engine.module.named_parameters() if parameter.requires_grad]


def size(engine: Any) -> int:
    """Return the number of elements of all trained parameters."""
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for _, parameter in trained(engine))


def read(engine: Any) -> Iterator[tuple[str, State]]:
    """Yield the state of every trained parameter, on this rank's device.

    This is a collective operation: all ranks must consume every state.
    """
    masters = _masters(engine)
    updates = _updates(engine) if masters is None else 0.0
    if updates:
        _link_moments(engine.optimizer)
    for name, parameter in trained(engine):
        if masters is not None:
            master = masters[parameter]
            own = engine.basic_optimizer.state.get(master, {})
            yield name, {MASTER: master.detach(), **{key: own[key] for key in (*MOMENTS, STEP) if key in own}}
            continue
        state = {MASTER: safe_get_full_fp32_param(parameter)}
        if updates:
            state |= {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            state[STEP] = torch.tensor(updates)
        yield name, state


def write(engine: Any, states: Mapping[str, State]) -> None:
    """Restore what `read` yielded, at any ZeRO stage and any world size.

    `states` may read each tensor when it is accessed. Raises KeyError for a parameter without a state, and RuntimeError
    for one of another shape.
    """
    updates = max((float(states[name].get(STEP, torch.zeros(()))) for name, _ in trained(engine)), default=0.0)
    masters = _masters(engine)
    if masters is None:
        _make_moments(engine, updates)
    for name, parameter in trained(engine):
        state = states[name]
        shape = getattr(parameter, "ds_shape", parameter.shape)
        if state[MASTER].shape != shape:
            raise RuntimeError(f"{name} has the shape {tuple(state[MASTER].shape)}, but the model's is {tuple(shape)}")
        if masters is not None:
            _write_whole(engine, parameter, masters[parameter], state)
        elif hasattr(parameter, "ds_id"):
            _write_sharded(parameter, state)
        else:
            _write_mapped(parameter, state)


@torch.no_grad()
def _write_whole(engine: Any, parameter: nn.Parameter, master: torch.Tensor, state: State) -> None:
    """Write the state of a parameter at stage 0."""
    master.copy_(state[MASTER])
    parameter.copy_(state[MASTER])
    base = engine.basic_optimizer
    base.state.pop(master, None)
    if STEP in state:
        moments = {key: state[key].to(master.device, copy=True) for key in MOMENTS}
        base.state[master] = {STEP: _step(base, float(state[STEP]), master), **moments}


@torch.no_grad()
def _write_mapped(parameter: nn.Parameter, state: State) -> None:
    """Write the state of a parameter at stage 1 or 2."""
    safe_set_full_fp32_param(parameter, state[MASTER])
    # The accessor only changes the master, so the first forward pass would use the old weights.
    parameter.copy_(state[MASTER])
    for key in MOMENTS if STEP in state else ():
        safe_set_full_optimizer_state(parameter, state[key], key)


@torch.no_grad()
def _write_sharded(parameter: Any, state: State) -> None:
    """Write the state of a parameter at stage 3.

    DeepSpeed's accessor for whole tensors cannot write a last shard that is padded.
    """
    safe_set_local_fp32_param(parameter, _shard(parameter, state[MASTER]))
    for key in MOMENTS if STEP in state else ():
        safe_set_local_optimizer_state(parameter, _shard(parameter, state[key]), key)
    with zero.GatheredParameters([parameter], modifier_rank=0):
        if torch.distributed.get_rank() == 0:
            parameter.copy_(state[MASTER])


def _shard(parameter: Any, whole: torch.Tensor) -> torch.Tensor:
    length = parameter.ds_tensor.numel()
    begin = length * torch.distributed.get_rank()
    part = whole.flatten()[begin : begin + length]
    return nn.functional.pad(part, (0, length - part.numel()))


def _masters(engine: Any) -> dict[nn.Parameter, torch.Tensor] | None:
    """Return what the optimizer updates for each parameter at stage 0, or None at other stages.

    This is the parameter itself, or in bf16 a copy in fp32.
    """
    optimizer = engine.optimizer
    if isinstance(optimizer, torch.optim.Optimizer):
        return {parameter: parameter for _, parameter in trained(engine)}
    if not isinstance(optimizer, FP16_UnfusedOptimizer):
        return None
    pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
    return {parameter: master for pair in pairs for parameter, master in zip(*pair, strict=True)}


def _updates(engine: Any) -> float:
    """Return the number of updates so far. DeepSpeed's optimizers step all parameters together."""
    return max((float(state[STEP]) for state in engine.basic_optimizer.state.values() if STEP in state), default=0.0)


def _make_moments(engine: Any, updates: float) -> None:
    """Create the optimizer's state, which the optimizer itself only creates in its first step.

    With `updates` 0, no step has been done and the state stays empty.
    """
    optimizer, base = engine.optimizer, engine.basic_optimizer
    base.state.clear()
    if not updates:
        return
    for flat in _flat_masters(optimizer):
        moments = {key: torch.zeros_like(flat, memory_format=torch.preserve_format) for key in MOMENTS}
        base.state[flat] = {STEP: _step(base, updates, flat), **moments}
    _link_moments(optimizer)


def _link_moments(optimizer: Any) -> None:
    """Show DeepSpeed's accessors where the moments are.

    At stages 1 and 2 DeepSpeed does this after the first step of the first group, when the other groups have no moments
    yet.
    """
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _flat_masters(optimizer: Any) -> list[torch.Tensor]:
    """Return the tensors that torch's optimizer updates. At stage 3 its groups are empty except during a step."""
    sharded = getattr(optimizer, "fp32_partitioned_groups_flat", None)
    if sharded is not None:
        return list(sharded)
    return [flat for group in optimizer.optimizer.param_groups for flat in group["params"]]


def _step(optimizer: torch.optim.Optimizer, updates: float, of: torch.Tensor) -> torch.Tensor:
    """Return a step counter as torch creates it: on the device only if the fused kernel counts the steps."""
    fused = any(group.get("fused") for group in optimizer.param_groups)
    return torch.tensor(updates, dtype=torch.float32, device=of.device if fused else "cpu")
