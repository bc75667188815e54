"""Loads the start checkpoint for the training: sharded under ZeRO-3, and with an adapter if the run has one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from finetune_trainer.contract import Lora, RunConfig
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.adapter import adapter_config
from finetune_trainer.model.new_tokens import check_tied_layers
from finetune_trainer.model.prepare import Prepared
from finetune_trainer.model.refusal import MAX_CHARACTERS, in_one_line
from finetune_trainer.model.start_model import DTYPES
from finetune_trainer.tasks import task_of


def load_model(config: RunConfig, prepared: Prepared, deepspeed: dict[str, Any]) -> PreTrainedModel | PeftModel:
    """Load the model in the run's precision. All ranks call this; equal seeds give them equal adapters.

    `deepspeed` is DeepSpeed's configuration. Raises InvalidError if the model cannot have the adapter.
    """
    with _sharded_loading(config, deepspeed):
        model: PreTrainedModel = task_of(config.task).auto_class.from_pretrained(
            prepared.start,
            dtype=DTYPES[config.training.precision],
            trust_remote_code=config.allow_remote_code,
            use_safetensors=True,
        )
    if config.training.activation_checkpointing and model.supports_gradient_checkpointing:
        # Reentrant checkpointing yields no gradients if the layers below an adapter are frozen.
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.lora is None:
        return model
    torch.manual_seed(config.training.seed)
    return with_adapter(model, config.lora, prepared)


def with_adapter(model: PreTrainedModel, lora: Lora, prepared: Prepared) -> PeftModel:
    """Return the model with a new adapter. Raises InvalidError if it cannot have one.

    The adapter has the precision of the model, because DeepSpeed keeps master weights in fp32, and adapters in fp32
    would cause activations in fp32.
    """
    adapter = adapter_config(model, lora, prepared)
    rows_by_layer: Any = adapter.trainable_token_indices or {}
    try:
        # PEFT copies the rows of new tokens, but gathers sharded rows by itself only on GPUs.
        with _whole(model, rows_by_layer):
            adapted: Any = get_peft_model(model, adapter, autocast_adapter_dtype=False)
    except (ValueError, TypeError, NotImplementedError) as error:
        asked = "method.targetModules" if lora.target_modules else "method.type"
        reason = in_one_line(error, MAX_CHARACTERS).rstrip(".")
        raise InvalidError(f"{asked}: PEFT cannot adapt the model ({reason}); name other layers or use Full") from None
    if prepared.new_tokens:
        check_tied_layers(model)
    return adapted  # type: ignore[no-any-return]


def _whole(model: PreTrainedModel, layers: Iterable[str]) -> AbstractContextManager[Any]:
    """Gather the weights of these layers on all ranks under ZeRO-3; otherwise do nothing. Collective."""
    weights = [model.get_parameter(f"{layer}.weight") for layer in layers]
    if not any(hasattr(weight, "ds_id") for weight in weights):
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(weights)
    return gathered


@contextmanager
def _sharded_loading(config: RunConfig, deepspeed: dict[str, Any]) -> Iterator[None]:
    """Let from_pretrained shard the model while it loads under ZeRO-3.

    transformers does so while an HfDeepSpeedConfig exists. It must not exist afterwards, because a model that one rank
    loads alone would wait for the other ranks forever.
    """
    if config.zero_stage != 3:
        yield
        return
    living = HfDeepSpeedConfig(deepspeed)
    try:
        yield
    finally:
        del living
        unset_hf_deepspeed_config()
