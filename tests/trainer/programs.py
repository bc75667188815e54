"""What the ranks of a test world are asked to do. Heavy imports happen in the ranks."""

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
    """What one rank saw of a training."""

    losses: list[float]
    grad_norms: list[float]
    skipped: list[int]
    """Numbers of the steps."""
    digest: str
    """Of all weights, whole, as this rank has them at the end."""
    finite: bool
    """All of these weights are."""
    supervised: list[int]
    """In each step, what this rank itself had to learn."""


@dataclasses.dataclass(frozen=True)
class Poison:
    """Something that is not a number, on one rank, in all micro-batches of a step."""

    rank: int
    step: int
    """From 1."""
    where: Literal["logits", "loss", "gradients"]
    """With a bad (infinite) loss alone, the gradients look well; and the other way round."""


@dataclasses.dataclass(frozen=True)
class End:
    """How a rank ended."""

    exit_code: int
    error: str
    steps: int = 0
    """Steps that were done or skipped before."""


def prepare_run(ranks: Ranks, config: RunConfig, paths: Paths) -> None:
    """Encoded rows and start checkpoint."""
    from finetune_trainer.model.prepare import prepare

    prepare(config, paths)


def curve(ranks: Ranks, config: RunConfig, paths: Paths, poisons: tuple[Poison, ...] = ()) -> Curve:
    """Train from what `prepare_run` left."""
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
    """Train until that ends with an error. After `stop_after` steps, the last rank's pod is asked to stop."""
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
    """Metrics of the start model."""
    from finetune_trainer.model.evaluate import evaluate

    engine, prepared, ranks = _loaded(ranks, config, paths)
    metrics = evaluate(engine, prepared, config, ranks)
    assert engine.training, "evaluation left the model in another mode"
    engine.destroy()
    return metrics


def end_of_evaluation(ranks: Ranks, config: RunConfig, paths: Paths, stopped: int) -> End:
    """Evaluate while the pod of rank `stopped` is asked to stop."""
    from finetune_trainer.model.evaluate import evaluate

    engine, prepared, ranks = _loaded(ranks, config, paths)
    if ranks.rank == stopped:
        (ranks.scratch / contract.STOP_FILE).touch()
    ended = _end_of(lambda: evaluate(engine, prepared, config, ranks))
    engine.destroy()
    return ended


def train(ranks: Ranks, config: RunConfig, paths: Paths) -> contract.Result | None:
    """The whole of it."""
    from finetune_trainer.training.loop import train
    from finetune_trainer.training.report import Report

    ranks, paths = _in_own_pod(ranks, paths)
    with Report(config, paths, ranks.rank, "gloo", ranks.activity) as report:
        return train(config, paths, ranks, report)


def end_of_training(ranks: Ranks, config: RunConfig, paths: Paths) -> End:
    """A training that is refused."""
    return _end_of(lambda: train(ranks, config, paths))


def end_of_agreement(ranks: Ranks, failing: int) -> End:
    """One rank fails where all act."""

    def act() -> None:
        if ranks.rank == failing:
            raise MismatchError("this rank differs")

    return _end_of(lambda: ranks.every(act))


def sizes(ranks: Ranks, config: RunConfig, paths: Paths) -> tuple[int, int]:
    """Elements of all parameters, and of those that this rank holds."""
    engine, *_ = _loaded(ranks, config, paths)
    parameters = list(engine.module.parameters())
    answer = sum(p.ds_numel for p in parameters), sum(p.ds_tensor.numel() + p.numel() for p in parameters)
    engine.destroy()
    return answer


def tools_in_path(ranks: Ranks, names: tuple[str, ...]) -> list[str]:
    """Those programs that a rank could start."""
    return [name for name in names if shutil.which(name)]


def _end_of(action: Callable[[], object]) -> End:
    from finetune_trainer.ranks.distributed import exit_code_of

    try:
        action()
    except Exception as error:
        return End(exit_code_of(error), str(error))
    return End(0, "")


def _in_own_pod(ranks: Ranks, paths: Paths) -> tuple[Ranks, Paths]:
    """As if every rank had a pod, and so a scratch folder, of its own."""
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
    """The engine, spoilt where a test wants it."""

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
            # Only class 0 is possible any more, and the labels say otherwise.
            outputs.logits[..., 1:] = -float("inf")
        return outputs

    def backward(self, loss: Any, **options: Any) -> None:
        self._engine.backward(loss * float("nan") if self._is_poisoned("gradients") else loss, **options)


def whole_weights(engine: Any) -> dict[str, Any]:
    """Every parameter, gathered under ZeRO-3."""
    import deepspeed

    parameters = dict(engine.module.named_parameters())
    sharded = [parameter for parameter in parameters.values() if hasattr(parameter, "ds_id")]
    with deepspeed.zero.GatheredParameters(sharded, enabled=bool(sharded)):
        return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def digest_of_weights(weights: dict[str, Any]) -> str:
    """sha256 of the bytes of all weights, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a training: an attempt in its own world, which is asked to stop after some step."""

    config: RunConfig
    stop_after: int | None = None
    """None: to the end."""
    disk_fault: tuple[int, Literal["full", "deleted", "replaced"]] | None = None
    """After that step, while a checkpoint is written, on rank 0: the disk takes no more; or before it is written, the
    folder of the checkpoints is gone, or a file is in its place. Afterwards all is well again."""


@dataclasses.dataclass(frozen=True)
class Part:
    """What a part of a training did."""

    exit_code: int
    error: str
    began_after: int
    """Steps that it found done."""
    losses: list[float]
    digest: str
    """Of all weights at its end."""
    told: list[contract.CheckpointReport | None]
    """After each step, on rank 0, of the newest checkpoint."""
    kept_step: int | None = None
    """The step whose model becomes the result, if the training came to its end."""
    best_loss: float | None = None
    """Evaluation loss of the best model, as the training remembers it."""


def part(ranks: Ranks, stage: Stage, paths: Paths) -> Part:
    """Prepare if need be, resume if there is a checkpoint, train until asked to stop or to the last step, and save."""
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
    """A part that another attempt overtakes after `stop_after` steps."""
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
