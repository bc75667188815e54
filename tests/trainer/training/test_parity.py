"""The training is the same for any number of ranks, any accumulation and any ZeRO stage."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from trainer import programs, tiny
from trainer.programs import Curve, End, Poison
from trainer.worlds import Worlds

from finetune_trainer import contract
from finetune_trainer.contract import RunConfig

ROWS = 34
"""The number of training rows. With 12 rows in a step, every third step is short."""
GLOBAL_BATCH = 12
CLIPPED = 5
"""The least number of the 20 steps in which clipping must change the gradients."""
# Without this setting, every rank would hold tiny parameters whole.
SHARD_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}


@dataclass(frozen=True)
class Layout:
    """How the rows of a step are divided."""

    ranks: int
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.ranks}x{GLOBAL_BATCH // self.ranks // self.micro_batch}"


ONE, TWO, TWO_ACCUMULATED = Layout(1, 12), Layout(2, 6), Layout(2, 3)
STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Case:
    """A model, and the greatest gradient norm, which clips some of its steps and not others."""

    task: str
    model: Callable[..., Any]
    max_grad_norm: float


CASES = {
    "llama": Case(tiny.CAUSAL_LM, tiny.llama, 1.0),
    "gpt2": Case(tiny.CAUSAL_LM, tiny.gpt2, 1.0),
    "bert": Case(tiny.SEQUENCE, tiny.bert, 1.0),
    "vit": Case(tiny.IMAGE, tiny.vit, 1.0),
}
LORA = contract.Lora(rank=4, alpha=8.0, dropout=0.0)


class Trainings:
    """The trainings of one base model and one data set."""

    def __init__(
        self, worlds: Worlds, folder: Path, case: Case, rows: int = ROWS, evaluation_rows: int = 8, **model: Any
    ) -> None:
        self.worlds, self.case = worlds, case
        self.paths = tiny.paths_in(folder)
        self.model = tiny.save_model(folder / "model", case.task, case.model(**model))
        self.rows = tiny.make_rows(folder / "train", case.task, rows)
        self.evaluation = tiny.make_rows(folder / "evaluation", case.task, evaluation_rows)
        self._prepared: set[str] = set()

    def config(self, layout: Layout, stage: int, **changes: Any) -> RunConfig:
        """Return a configuration with the same recipe for all layouts and stages."""
        precision, seed = changes.get("precision", "fp32"), changes.get("seed", 17)
        recipe = {
            "deepspeed": SHARD_ALL if stage == 3 else None,
            "folder": f"runs/{precision}-{seed}",
            "global_batch_size": GLOBAL_BATCH,
            "max_grad_norm": self.case.max_grad_norm,
        }
        return tiny.run_config(
            self.case.task,
            self.model,
            self.rows,
            self.evaluation,
            world=layout.ranks,
            stage=stage,
            micro_batch_size=layout.micro_batch,
            **{**recipe, **changes},
        )

    def prepared(self, layout: Layout, stage: int, **changes: Any) -> RunConfig:
        """Prepare the encoded rows and the start checkpoint, unless an equal run has them."""
        config = self.config(layout, stage, **changes)
        if config.folder not in self._prepared:
            self.worlds(1).run(programs.prepare_run, config, self.paths)
            self._prepared.add(config.folder)
        return config

    def curve(self, layout: Layout, stage: int, poisons: tuple[Poison, ...] = (), **changes: Any) -> Curve:
        """Train and return the curve of rank 0, after asserting that all ranks have the same."""
        config = self.prepared(layout, stage, **changes)
        curves: list[Curve] = self.worlds(layout.ranks).run(programs.curve, config, self.paths, poisons)
        assert len({curve.digest for curve in curves}) == 1, "ranks end with different weights"
        assert len({str((curve.losses, curve.grad_norms)) for curve in curves}) == 1, "ranks report different steps"
        if layout.ranks > 1:
            assert any(len(set(counts)) > 1 for counts in zip(*(c.supervised for c in curves), strict=True))
        return curves[0]

    def end(
        self,
        layout: Layout,
        stage: int,
        poisons: tuple[Poison, ...] = (),
        stop_after: int | None = None,
        **changes: Any,
    ) -> list[End]:
        """Train and return how each rank ended."""
        config = self.prepared(layout, stage, **changes)
        return self.worlds(layout.ranks).run(programs.end_of_steps, config, self.paths, poisons, stop_after)

    def train(self, layout: Layout, stage: int, **changes: Any) -> list[Any]:
        """Train and return rank 0's result, and None for the other ranks."""
        config = self.config(layout, stage, folder=f"runs/whole-{stage}", **changes)
        return self.worlds(layout.ranks).run(programs.train, config, self.paths)


def fast(*names: str) -> list[Any]:
    """Return all cases; those not named are marked slow, because the named ones are representative."""
    return [
        pytest.param(case, id=name, marks=() if name in names else pytest.mark.slow) for name, case in CASES.items()
    ]


def loss_difference(one: Curve, other: Curve) -> float:
    """Return the greatest difference of the losses over all steps."""
    return max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))


def norm_difference(one: Curve, other: Curve) -> float:
    """Return the greatest relative difference of the gradient norms over all steps."""
    return max(abs(a - b) / b for a, b in zip(one.grad_norms, other.grad_norms, strict=True))


def assert_equal_curves(
    curves: dict[str, Curve], loss: float, norm: float, record: Callable[[str, object], None]
) -> None:
    """Assert that all curves agree with the first within the tolerances."""
    (_, first), *others = curves.items()
    losses = {name: loss_difference(curve, first) for name, curve in others}
    norms = {name: norm_difference(curve, first) for name, curve in others}
    record("curves", len(curves))
    record("max loss difference", f"{max(losses.values()):.1e}")
    record("max relative gradient norm difference", f"{max(norms.values()):.1e}")
    print(f"{len(curves)} curves: loss {max(losses.values()):.1e}, gradient norm {max(norms.values()):.1e}")
    assert max(losses.values()) <= loss, losses
    assert max(norms.values()) <= norm, norms


@pytest.mark.parametrize("case", fast("llama", "bert", "vit"))
def test_every_stage_and_layout_trains_the_same(
    case: Case, worlds: Worlds, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    trainings = Trainings(worlds, tmp_path, case)
    curves = {
        f"{layout} stage {stage}": trainings.curve(layout, stage)
        for layout, stage in itertools.product((ONE, TWO, TWO_ACCUMULATED), STAGES)
    }
    first = next(iter(curves.values()))
    assert len(first.losses) == 20
    clipped = sum(norm > case.max_grad_norm for norm in first.grad_norms)
    assert clipped >= CLIPPED, first.grad_norms
    assert_equal_curves(curves, 1e-4, 1e-3, record_property)


@pytest.mark.parametrize("case", fast("gpt2", "bert", "vit"))
def test_dropout_depends_on_neither_ranks_nor_stage(
    case: Case, worlds: Worlds, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    dropout = {"attention_dropout": 0.1} if case.model is tiny.llama else {"dropout": 0.1}
    trainings = Trainings(worlds, tmp_path, case, **dropout)
    curves = {
        f"{layout} stage {stage}": trainings.curve(layout, stage)
        for layout, stage in ((Layout(1, 6), 0), (Layout(2, 6), 0), (Layout(2, 6), 3))
    }
    assert_equal_curves(curves, 1e-4, 1e-3, record_property)
    without = Trainings(worlds, tmp_path / "without", case).curve(Layout(2, 6), 0)
    assert loss_difference(without, curves["2x1 stage 0"]) > 1e-3, "dropout did nothing"


@pytest.fixture(scope="module")
def new_worlds(worlds: Worlds) -> Worlds:
    """Replace the processes by new ones, which have trained nothing yet, as in a pod.

    In bf16, the last bits depend on the addresses of tensors. After twenty steps, they make a difference of a percent.
    """
    worlds.close()
    return worlds


@pytest.mark.parametrize("case", fast("llama", "bert", "vit"))
def test_bf16_trains_the_same_within_its_precision(
    case: Case, new_worlds: Worlds, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    trainings = Trainings(new_worlds, tmp_path, case)
    layouts = [(ONE, 0), (TWO, 0), (TWO_ACCUMULATED, 1), (TWO_ACCUMULATED, 2), (TWO, 3)]
    curves = {f"{layout} stage {stage}": trainings.curve(layout, stage, precision="bf16") for layout, stage in layouts}
    assert_equal_curves(curves, 2e-2, 2e-2, record_property)
    assert_equal_curves({"fp32": trainings.curve(ONE, 0), **curves}, 5e-2, 1e-1, record_property)


@pytest.mark.parametrize("case", fast("gpt2", "bert"))
def test_an_adapter_trains_the_same_at_every_stage(
    case: Case, worlds: Worlds, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    trainings = Trainings(worlds, tmp_path, case)
    curves = {
        f"{layout} stage {stage}": trainings.curve(layout, stage, lora=LORA)
        for layout, stage in ((ONE, 0), (TWO, 1), (TWO, 2), (TWO_ACCUMULATED, 3))
    }
    assert_equal_curves(curves, 1e-4, 1e-3, record_property)
