"""A model is trained at the ZeRO stage that the user requested, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from models_table.small_config import small_config
from safetensors import SafetensorError
from trainer import programs, tiny
from trainer.training.test_parity import LORA, SHARD_ALL, Case, Layout, Trainings, assert_equal_curves
from trainer.worlds import Worlds
from transformers import BitConfig, PreTrainedConfig, RegNetConfig, ResNetConfig

from finetune_trainer.contract import ExitCode
from finetune_trainer.errors import InvalidError
from finetune_trainer.model import engine
from finetune_trainer.ranks.distributed import Ranks

SHAPE = {"depths": [1, 1], "num_labels": len(tiny.LABELS)}


def resnet() -> PreTrainedConfig:
    return ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], **SHAPE)


def regnet() -> PreTrainedConfig:
    return RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], groups_width=4, **SHAPE)


def bit() -> PreTrainedConfig:
    return BitConfig(embedding_size=8, hidden_sizes=[8, 16], num_groups=4, **SHAPE)


def funnel() -> PreTrainedConfig:
    config = small_config("funnel", tiny.VOCABULARY)
    config.num_labels = len(tiny.LABELS)
    return config


def reformer() -> PreTrainedConfig:
    """Return a Reformer, which evaluates texts of any length but trains on texts of one length."""
    return small_config("reformer", tiny.VOCABULARY)


@pytest.mark.parametrize(("task", "model"), [(tiny.IMAGE, resnet), (tiny.IMAGE, regnet), (tiny.SEQUENCE, funnel)])
def test_a_model_that_computes_new_weights_from_their_shape_trains_sharded(
    task: str, model: Any, worlds: Worlds, tmp_path: Path, record_property: Any
) -> None:
    trainings = Trainings(worlds, tmp_path, Case(task, model, 1.0))
    recipe = {"max_steps": 3, "warmup_fraction": 0.0}
    curves = {f"stage {stage}": trainings.curve(Layout(2, 6), stage, **recipe) for stage in (0, 3)}
    assert_equal_curves(curves, 1e-4, 1e-3, record_property)


def test_a_model_that_cannot_be_built_in_shards_is_refused_on_all_ranks(worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, Case(tiny.IMAGE, bit, 1.0))
    config = trainings.config(Layout(2, 3), 3, deepspeed=SHARD_ALL)
    ends = worlds(2).run(programs.end_of_training, config, trainings.paths)
    assert [end.exit_code for end in ends] == [ExitCode.INVALID] * 2
    sentence = ends[0].error
    assert sentence.startswith(f"model.uri: {config.model.uri}, a model of type bit, cannot be trained with ")
    assert "deepspeed.zeroStage 3 (TypeError: new_empty()" in sentence
    assert sentence.endswith("; set deepspeed.zeroStage to 2")


def test_a_model_that_fails_in_its_first_step_is_refused_on_all_ranks(worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, Case(tiny.CAUSAL_LM, reformer, 1.0))
    config = trainings.config(Layout(2, 3), 0)
    ends = worlds(2).run(programs.end_of_training, config, trainings.paths)
    assert [end.exit_code for end in ends] == [ExitCode.INVALID] * 2
    sentence = ends[0].error
    assert sentence.startswith(f"model.uri: {config.model.uri}, a model of type reformer, cannot be trained with ")
    assert "deepspeed.zeroStage 0 (ValueError: If training, make sure that config.axial_pos_shape" in sentence
    assert sentence.endswith("; use another model")


def load(error: Exception, stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load a model whose library raises this error."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(engine, "load_model", fail)
    config = tiny.run_config(tiny.SEQUENCE, Path("/models/some"), Path("/rows.jsonl"), stage=stage, lora=LORA)
    prepared: Any = SimpleNamespace(settings=SimpleNamespace(model=tiny.bert()))
    ranks = Ranks(dist.HashStore(), rank=0, world=1, scratch=Path("/nowhere"), device=torch.device("cpu"))
    engine.load_engine(config, prepared, ranks)


@pytest.mark.parametrize(
    "error",
    [ValueError("no\nway"), TypeError("no way"), NotImplementedError("no way"), RuntimeError("no way"), KeyError("no")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_a_library_names_model_type_and_stage(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    words = " ".join(str(error).split())
    with pytest.raises(InvalidError) as sharded:
        load(error, 3, monkeypatch)
    assert str(sharded.value) == (
        "model.uri: file:///models/some, a model of type bert, cannot be trained with deepspeed.zeroStage 3 "
        f"({type(error).__name__}: {words}); set deepspeed.zeroStage to 2"
    )
    with pytest.raises(InvalidError, match=r"with deepspeed\.zeroStage 1 .*; use another model$"):
        load(error, 1, monkeypatch)


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        dist.DistNetworkError("the other end is gone"),
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.1]:5"),
        RuntimeError("NCCL error: unhandled system error"),
        SafetensorError("Error while deserializing header"),
        InvalidError("method.targetModules: x is no layer"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:30],
)
def test_an_error_of_the_machine_and_one_that_is_a_sentence_already_stay_as_they_are(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(type(error)) as raised:
        load(error, 3, monkeypatch)
    assert raised.value is error
