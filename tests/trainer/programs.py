"""The functions that the ranks of a test world run. Heavy imports happen inside them, in the ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune_trainer import contract
from finetune_trainer.contract import RunConfig
from finetune_trainer.errors import MismatchError
from finetune_trainer.pod.paths import Paths

if TYPE_CHECKING:
    from finetune_trainer.data.sampler import Sampler
    from finetune_trainer.model.prepare import Prepared
    from finetune_trainer.ranks.distributed import Ranks
    from finetune_trainer.training.steps import Step


@dataclasses.dataclass(frozen=True)
class Curve:
    """What one rank recorded of a training."""

    losses: list[float]
    grad_norms: list[float]
    skipped: list[int]
    """The numbers of the skipped steps."""
    digest: str
    """The digest of all weights, gathered on this rank at the end."""
    finite: bool
    """Whether all these weights are finite."""
    supervised: list[int]
    """The number of supervised items of this rank in each step."""


@dataclasses.dataclass(frozen=True)
class Poison:
    """Values that are not finite, on one rank, in all micro-batches of a step."""

    rank: int
    step: int
    """The number of the step, counted from 1."""
    where: Literal["logits", "loss", "gradients"]
    """What is spoilt. `loss` makes the loss infinite while the gradients look good; `gradients` does the opposite."""


@dataclasses.dataclass(frozen=True)
class End:
    """How a rank ended."""

    exit_code: int
    error: str
    steps: int = 0
    """The number of steps that were done or skipped before the end."""


def prepare_run(ranks: Ranks, config: RunConfig, paths: Paths) -> None:
    """Prepare the encoded rows and the start checkpoint."""
    from finetune_trainer.model.prepare import prepare

    prepare(config, paths)


def curve(ranks: Ranks, config: RunConfig, paths: Paths, poisons: tuple[Poison, ...] = ()) -> Curve:
    """Train from what `prepare_run` prepared."""
    import torch

    from finetune_trainer.training.steps import sampler_of

    engine, prepared, ranks = _loaded(ranks, config, paths)
    done = list(_steps(engine, prepared, config, _own(paths, ranks), ranks, poisons))
    weights = whole_weights(engine)
    answer = Curve(
        losses=[step.loss for step in done],
        grad_norms=[step.grad_norm for step in done],
        skipped=[step.number for step in done if step.skipped],
        digest=digest_of_weights(weights),
        finite=all(bool(torch.isfinite(weight).all()) for weight in weights.values()),
        supervised=_supervised(sampler_of(config, prepared), prepared, ranks.rank, len(done)),
    )
    engine.destroy()
    return answer


def end_of_steps(
    ranks: Ranks, config: RunConfig, paths: Paths, poisons: tuple[Poison, ...], stop_after: int | None
) -> End:
    """Train until the training ends, and return how it ended.

    After `stop_after` steps, the pod of the last rank is asked to stop.
    """
    engine, prepared, ranks = _loaded(ranks, config, paths)
    done = 0

    def train() -> None:
        nonlocal done
        for step in _steps(engine, prepared, config, _own(paths, ranks), ranks, poisons):
            done = step.number
            if done == stop_after and ranks.rank == ranks.world - 1:
                (ranks.scratch / contract.STOP_FILE).touch()

    ended = _end_of(train)
    engine.destroy()
    return dataclasses.replace(ended, steps=done)


def evaluation(ranks: Ranks, config: RunConfig, paths: Paths) -> dict[str, float]:
    """Return the metrics of the start model."""
    from finetune_trainer.model.evaluate import evaluate

    engine, prepared, ranks = _loaded(ranks, config, paths)
    metrics = evaluate(engine, prepared, config, ranks)
    assert engine.training, "evaluation left the model in another mode"
    engine.destroy()
    return metrics


def end_of_evaluation(ranks: Ranks, config: RunConfig, paths: Paths, stopped: int) -> End:
    """Evaluate while the pod of rank `stopped` is asked to stop, and return how that ended."""
    from finetune_trainer.model.evaluate import evaluate

    engine, prepared, ranks = _loaded(ranks, config, paths)
    if ranks.rank == stopped:
        (ranks.scratch / contract.STOP_FILE).touch()
    ended = _end_of(lambda: evaluate(engine, prepared, config, ranks))
    engine.destroy()
    return ended


def train(ranks: Ranks, config: RunConfig, paths: Paths) -> contract.Result | None:
    """Train with the trainer's own loop, and return the result on rank 0."""
    from finetune_trainer.training.loop import train
    from finetune_trainer.training.report import Report

    ranks, paths = _in_own_pod(ranks, paths)
    with Report(config, paths, ranks.rank, "gloo", ranks.activity) as report:
        return train(config, paths, ranks, report)


def end_of_training(ranks: Ranks, config: RunConfig, paths: Paths) -> End:
    """Train and return how the training ended."""
    return _end_of(lambda: train(ranks, config, paths))


def end_of_agreement(ranks: Ranks, failing: int) -> End:
    """Let one rank fail in an action of all ranks, and return how this rank ended."""

    def act() -> None:
        if ranks.rank == failing:
            raise MismatchError("this rank differs")

    return _end_of(lambda: ranks.every(act))


def sizes(ranks: Ranks, config: RunConfig, paths: Paths) -> tuple[int, int]:
    """Return the number of elements of all parameters, and of the part that this rank holds."""
    engine, *_ = _loaded(ranks, config, paths)
    parameters = list(engine.module.parameters())
    answer = sum(p.ds_numel for p in parameters), sum(p.ds_tensor.numel() + p.numel() for p in parameters)
    engine.destroy()
    return answer


def tools_in_path(ranks: Ranks, names: tuple[str, ...]) -> list[str]:
    """Return the programs among `names` that a rank could start."""
    return [name for name in names if shutil.which(name)]


def _end_of(action: Callable[[], object]) -> End:
    from finetune_trainer.ranks.distributed import exit_code_of

    try:
        action()
    except Exception as error:
        return End(exit_code_of(error), str(error))
    return End(0, "")


def _in_own_pod(ranks: Ranks, paths: Paths) -> tuple[Ranks, Paths]:
    """Give the rank its own scratch folder, as if every rank had its own pod."""
    paths = dataclasses.replace(paths, scratch=paths.scratch / f"rank-{ranks.rank}")
    paths.scratch.mkdir(exist_ok=True)
    return dataclasses.replace(ranks, scratch=paths.scratch), paths


def _own(paths: Paths, ranks: Ranks) -> Paths:
    return dataclasses.replace(paths, scratch=ranks.scratch)


def _loaded(ranks: Ranks, config: RunConfig, paths: Paths) -> tuple[Any, Prepared, Ranks]:
    from finetune_trainer.model.engine import load_engine
    from finetune_trainer.model.prepare import Prepared

    ranks, paths = _in_own_pod(ranks, paths)
    prepared = Prepared.load(config, paths)
    return load_engine(config, prepared, ranks), prepared, ranks


def _steps(
    engine: Any, prepared: Prepared, config: RunConfig, paths: Paths, ranks: Ranks, poisons: tuple[Poison, ...]
) -> Iterator[Step]:
    from finetune_trainer.ranks.distributed import raise_stopped
    from finetune_trainer.ranks.requests import Requests
    from finetune_trainer.training.health import Health, after_step
    from finetune_trainer.training.steps import refuse_divergence, steps

    poisoned = _Poisoned(engine, poisons, ranks.rank)
    health = Health()
    for step in steps(poisoned, prepared, config, ranks, Requests(config, paths, ranks.rank)):
        yield step
        health = after_step(health, step.loss, step.skipped)
        refuse_divergence(config, step, health.skipped_in_row)
        if step.asked.stop:
            raise_stopped()
        poisoned.at += 1


def _supervised(sampler: Sampler, prepared: Prepared, rank: int, steps: int) -> list[int]:
    counts = prepared.train["count"]
    return [
        sum(
            counts[row] * weight
            for micro_batch in sampler.micro_batches(step, rank)
            for row, weight in zip(micro_batch.rows, micro_batch.weights, strict=True)
        )
        for step in range(steps)
    ]


class _Poisoned:
    """An engine that spoils logits, losses or gradients in the steps that a test names."""

    def __init__(self, engine: Any, poisons: tuple[Poison, ...], rank: int) -> None:
        self._engine = engine
        self._poisons = [poison for poison in poisons if poison.rank == rank]
        self.at = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def _is_poisoned(self, where: str) -> bool:
        return any(poison.step == self.at and poison.where == where for poison in self._poisons)

    def __call__(self, **features: Any) -> Any:
        outputs = self._engine(**features)
        if self._is_poisoned("logits"):
            outputs.logits = outputs.logits * float("nan")
        if self._is_poisoned("loss"):
            # The infinite logits leave only class 0 possible, but the labels name other classes.
            outputs.logits[..., 1:] = -float("inf")
        return outputs

    def backward(self, loss: Any, **options: Any) -> None:
        self._engine.backward(loss * float("nan") if self._is_poisoned("gradients") else loss, **options)


def whole_weights(engine: Any) -> dict[str, Any]:
    """Return every parameter; under ZeRO-3 they are gathered first."""
    import deepspeed

    parameters = dict(engine.module.named_parameters())
    sharded = [parameter for parameter in parameters.values() if hasattr(parameter, "ds_id")]
    with deepspeed.zero.GatheredParameters(sharded, enabled=bool(sharded)):
        return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def digest_of_weights(weights: dict[str, Any]) -> str:
    """Return the sha256 digest of the bytes of all weights, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a training: one attempt in its own world, which may be asked to stop after a step."""

    config: RunConfig
    stop_after: int | None = None
    """The step after which the attempt is asked to stop, or None to train to the end."""
    disk_fault: tuple[int, Literal["full", "deleted", "replaced"]] | None = None
    """The step after which rank 0 cannot write its checkpoint, and why. `full` means that the disk takes no more data;
    `deleted` and `replaced` mean that the folder of the checkpoints disappears, or becomes a file, before the
    checkpoint is written. The fault ends with the step."""


@dataclasses.dataclass(frozen=True)
class Part:
    """What a part of a training did."""

    exit_code: int
    error: str
    began_after: int
    """The number of steps that were done when the part began."""
    losses: list[float]
    digest: str
    """The digest of all weights at its end."""
    told: list[contract.CheckpointReport | None]
    """The report of the newest checkpoint after each step, on rank 0."""
    kept_step: int | None = None
    """The step whose model becomes the result, if the training reached its end."""
    best_loss: float | None = None
    """The evaluation loss of the best model, as the training stored it."""


def part(ranks: Ranks, stage: Stage, paths: Paths) -> Part:
    """Train one part: prepare if necessary, resume from a checkpoint if one exists, train and save.

    The part ends when it is asked to stop or after the last step.
    """
    from finetune_trainer.model.engine import load_engine
    from finetune_trainer.model.prepare import Prepared, prepare
    from finetune_trainer.ranks.distributed import exit_code_of
    from finetune_trainer.training.loop import Training
    from finetune_trainer.training.report import Report
    from finetune_trainer.training.steps import steps

    config = stage.config
    ranks, paths = _in_own_pod(ranks, paths)
    (ranks.scratch / contract.STOP_FILE).unlink(missing_ok=True)
    ranks.first(lambda: prepare(config, paths))
    prepared = ranks.every(lambda: Prepared.load(config, paths))
    engine = load_engine(config, prepared, ranks)
    began, losses, told, kept = -1, [], [], None
    exit_code, error = 0, ""
    with Report(config, paths, ranks.rank, "gloo", ranks.activity) as report:
        training = Training(config, paths, ranks, report, prepared, engine)
        try:
            training.begin()
            began = training.position.step
            for step in () if training.is_over else steps(engine, prepared, config, ranks, training.requests, began):
                losses.append(step.loss)
                if step.number == stage.stop_after and ranks.rank == ranks.world - 1:
                    (ranks.scratch / contract.STOP_FILE).touch()
                with _disk_fault(stage, step.number, ranks, paths.run(config) / "checkpoints"):
                    training.after(step)
                told.append(report._checkpoint)
                if training.is_over:
                    break
            training.save()
            kept = training.take_kept_model()
        except Exception as failure:
            exit_code, error = exit_code_of(failure), str(failure)
    answer = Part(exit_code, error, began, losses, digest_of_weights(whole_weights(engine)), told, kept)
    if best := training.position.best:
        answer = dataclasses.replace(answer, best_loss=best.loss)
    engine.destroy()
    return answer


def overtaken_part(ranks: Ranks, stage: Stage, paths: Paths) -> Part:
    """Train a part during which a newer attempt claims the run, after `stop_after` steps."""
    from finetune_trainer.ranks import claim, requests

    requests.SECONDS_BETWEEN_LOOKS, before = 0.0, requests.SECONDS_BETWEEN_LOOKS
    newer = stage.config.model_copy(update={"attempt": stage.config.attempt + 1})
    after = requests.Requests.now

    def now(self: Any) -> Any:
        if (ranks.rank, self.looks) == (0, stage.stop_after):
            claim.claim(newer, paths)
        self.looks += 1
        return after(self)

    requests.Requests.looks, requests.Requests.now = 0, now  # type: ignore[attr-defined, method-assign]
    try:
        return part(ranks, dataclasses.replace(stage, stop_after=None), paths)
    finally:
        requests.SECONDS_BETWEEN_LOOKS, requests.Requests.now = before, after  # type: ignore[method-assign]


@contextlib.contextmanager
def _disk_fault(stage: Stage, step: int, ranks: Ranks, folder: Path) -> Iterator[None]:
    import resource

    at, fault = stage.disk_fault or (None, "")
    if step != at or ranks.rank != 0:
        yield
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if fault == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    else:
        shutil.rmtree(folder)
    if fault == "replaced":
        folder.write_text("foreign")
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if fault == "replaced":
        folder.unlink()
