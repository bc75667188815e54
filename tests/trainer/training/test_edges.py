"""Edge cases in which distributed training could go wrong silently: uneven rows, bad numbers, stops and failures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from trainer import programs, tiny
from trainer.programs import Curve, Poison
from trainer.training.test_parity import CASES, SHARD_ALL, STAGES, TWO_ACCUMULATED, Layout, Trainings, loss_difference
from trainer.worlds import Worlds

from finetune_trainer import contract
from finetune_trainer.contract import ExitCode, RunConfig


def assert_close(one: Curve, other: Curve) -> None:
    for a, b in zip(one.losses + one.grad_norms, other.losses + other.grad_norms, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize(("name", "micro_batch"), [("gpt2", 1), ("bert", 2), ("vit", 4)])
def test_five_rows_are_evaluated_by_two_sharded_ranks_as_by_one(
    name: str, micro_batch: int, worlds: Worlds, tmp_path: Path
) -> None:
    trainings = Trainings(worlds, tmp_path, CASES[name], evaluation_rows=5)
    alone = trainings.prepared(Layout(1, 4), 0)
    (expected,) = worlds(1).run(programs.evaluation, alone, trainings.paths)
    sharded = trainings.config(Layout(2, micro_batch), 3)
    first, second = worlds(2).run(programs.evaluation, sharded, trainings.paths)
    assert first == second
    assert first == pytest.approx(expected, rel=1e-5)


def test_three_ranks_share_a_global_batch_of_64(worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, CASES["bert"], rows=130)
    recipe = {"global_batch_size": 64, "max_steps": 4}
    alone = trainings.curve(Layout(1, 8), 0, **recipe)
    for stage in (0, 3):
        assert_close(trainings.curve(Layout(3, 8), stage, **recipe), alone)


def test_fifty_rows_are_one_step_when_the_global_batch_is_64(worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, CASES["llama"], rows=50)
    recipe = {"global_batch_size": 64, "epochs": 3}
    alone = trainings.curve(Layout(1, 16), 0, **recipe)
    assert len(alone.losses) == 3
    assert_close(trainings.curve(Layout(2, 16), 3, **recipe), alone)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_nan_on_one_rank_is_dropped_by_all_and_leaves_nothing_behind(
    precision: str, worlds: Worlds, tmp_path: Path
) -> None:
    trainings = Trainings(worlds, tmp_path, CASES["bert"])
    recipe = {"max_steps": 8, "precision": precision, "warmup_fraction": 0.0}
    poisons = (
        Poison(rank=1, step=3, where="logits"),
        Poison(rank=0, step=5, where="gradients"),
        Poison(rank=1, step=6, where="loss"),
    )
    curves = [trainings.curve(TWO_ACCUMULATED, stage, poisons=poisons, **recipe) for stage in STAGES]
    for curve in curves:
        assert curve.skipped == [3, 5, 6]
        assert curve.finite
        assert [math.isfinite(loss) for loss in curve.losses] == [True, True, False, True, True, False, True, True]
        tolerance = 1e-4 if precision == "fp32" else 2e-2
        assert curve.losses == pytest.approx(curves[0].losses, abs=tolerance, nan_ok=True)
    clean = trainings.curve(TWO_ACCUMULATED, 0, **recipe)
    assert curves[0].losses[:2] == clean.losses[:2]
    assert curves[0].losses[3] != pytest.approx(clean.losses[3], abs=1e-5)


def test_a_dropped_step_changes_no_weight(worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, CASES["gpt2"])
    for stage in STAGES:
        short = trainings.curve(TWO_ACCUMULATED, stage, max_steps=2, warmup_fraction=1.0)
        # The longer training has the same first two steps, with the same learning rates, and then only bad steps.
        poisons = tuple(Poison(rank=1, step=step, where="logits") for step in (3, 4))
        longer = trainings.curve(
            TWO_ACCUMULATED, stage, max_steps=4, warmup_fraction=1.0, learning_rate=2e-3, poisons=poisons
        )
        assert longer.losses[:2] == short.losses
        assert longer.digest == short.digest


def test_too_many_bad_steps_in_a_row_end_the_run_on_all_ranks(worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, CASES["bert"])
    poisons = tuple(Poison(rank=1, step=step, where="logits") for step in range(2, 30))
    ends = trainings.end(TWO_ACCUMULATED, 2, max_steps=40, poisons=poisons)
    assert [end.exit_code for end in ends] == [ExitCode.DIVERGED] * 2
    assert ends[0].error == ends[1].error
    assert "not finite in 11 steps in a row up to step 12" in ends[0].error
    assert ends[0].steps == 12


def test_rows_without_supervised_tokens_change_nothing(worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, CASES["gpt2"])
    long_prompt = {"prompt": "w1 " * 40, "completion": " w2"}
    taught = {"prompt": "w3 w4", "completion": " w5 w6"}
    tiny.write_rows(trainings.rows, [long_prompt] * 7 + [taught])
    recipe = {"global_batch_size": 2, "epochs": 1, "max_bad_fraction": 1.0}
    alone = trainings.curve(Layout(1, 2), 0, **recipe)
    assert sum(math.isnan(loss) for loss in alone.losses) == 3
    assert sum(norm == 0 for norm in alone.grad_norms) == 3
    assert alone.finite
    assert alone.skipped == []
    for stage in (0, 2, 3):
        assert_close(trainings.curve(Layout(2, 1), stage, **recipe), alone)


def test_no_stage_needs_a_compiler(worlds: Worlds, tmp_path: Path) -> None:
    world = worlds(2)
    assert world.run(programs.tools_in_path, ("cc", "gcc", "g++", "clang", "nvcc", "ninja")) == [[], []]
    trainings = Trainings(worlds, tmp_path, CASES["vit"])
    for stage in STAGES:
        result, nothing = trainings.train(Layout(2, 6), stage, epochs=1)
        assert nothing is None
        assert result.step == 3


@pytest.mark.parametrize("stage", [0, 3])
def test_a_stop_request_on_one_pod_stops_all_ranks_at_the_same_step(stage: int, worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, CASES["bert"])
    ends = trainings.end(TWO_ACCUMULATED, stage, stop_after=4)
    assert [end.exit_code for end in ends] == [ExitCode.PREEMPTED] * 2
    assert ends[0].steps == ends[1].steps == 5


def test_a_stop_request_is_seen_while_evaluating(worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, CASES["bert"])
    config = trainings.prepared(Layout(2, 1), 0)
    ends = worlds(2).run(programs.end_of_evaluation, config, trainings.paths, 1)
    assert [end.exit_code for end in ends] == [ExitCode.PREEMPTED] * 2


def test_what_rank_0_finds_wrong_is_told_by_all_ranks(worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, CASES["bert"])
    config = trainings.config(Layout(2, 1), 0)
    (trainings.model / "config.json").unlink()
    first, second = worlds(2).run(programs.end_of_training, config, trainings.paths)
    assert first.exit_code == second.exit_code == ExitCode.INVALID
    assert first.error.startswith("model.uri: ")
    assert second.error == f"rank 0 failed: {first.error}"


def test_what_one_rank_finds_wrong_while_loading_is_told_by_all_ranks(worlds: Worlds) -> None:
    ends = worlds(2).run(programs.end_of_agreement, 1)
    assert [end.exit_code for end in ends] == [ExitCode.MISMATCH] * 2
    assert ends[1].error == "this rank differs"
    assert ends[0].error == "rank 1 failed: this rank differs"


def refused(worlds: Worlds, trainings: Trainings, config: RunConfig) -> str:
    """Return the message with which rank 0 refuses a run."""
    (end,) = worlds(1).run(programs.end_of_training, config, trainings.paths)
    assert end.exit_code == ExitCode.INVALID, end.error
    return end.error


def test_a_task_that_does_not_fit_the_model_is_refused(worlds: Worlds, tmp_path: Path) -> None:
    bert = Trainings(worlds, tmp_path / "bert", CASES["bert"])
    vit = Trainings(worlds, tmp_path / "vit", CASES["vit"])
    for model, task in (
        (vit, "CausalLM"),
        (bert, "CausalLM"),
        (bert, "ImageClassification"),
        (vit, "SequenceClassification"),
    ):
        config = tiny.run_config(task, model.model, tiny.make_rows(tmp_path, task, 40))
        sentence = refused(worlds, model, config)
        assert sentence.startswith(f"task: {task} does not fit model.uri file://{model.model}"), sentence


def test_unknown_target_modules_are_refused_by_name(worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, CASES["bert"])
    lora = contract.Lora(rank=4, alpha=8, dropout=0, target_modules=("query", "q_projection"))
    sentence = refused(worlds, trainings, trainings.config(Layout(1, 4), 0, lora=lora))
    assert sentence.startswith("method.targetModules: q_projection is no layer"), sentence


def test_a_key_that_deepspeed_refuses_is_refused_in_a_sentence(worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, CASES["bert"])
    raw = {"zero_optimization": {"reduce_buckets": 1}}
    sentence = refused(worlds, trainings, trainings.config(Layout(1, 4), 2, deepspeed=raw))
    assert sentence.startswith("deepspeed.config: ")
    assert "reduce_buckets" in sentence


def test_tiny_models_are_really_sharded(worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, CASES["bert"])
    config = trainings.prepared(Layout(2, 6), 3)
    assert config.deepspeed == SHARD_ALL
    whole, held = zip(*worlds(2).run(programs.sizes, config, trainings.paths), strict=True)
    assert held[0] == held[1] == pytest.approx(whole[0] / 2, rel=0.05)


def test_losses_differ_between_seeds(worlds: Worlds, tmp_path: Path) -> None:
    trainings = Trainings(worlds, tmp_path, CASES["bert"])
    one, other = (trainings.curve(Layout(1, 12), 0, seed=seed, max_steps=3) for seed in (1, 2))
    assert loss_difference(one, other) > 1e-4
