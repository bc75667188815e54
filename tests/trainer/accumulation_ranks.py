"""What every rank does to compare the gradient of one long step with the sum over its micro-batches."""

from __future__ import annotations

import torch

from finetune_trainer.checkpoint import engine_state
from finetune_trainer.contract import RunConfig
from finetune_trainer.data.sampler import Sampler, micro_batch_seed
from finetune_trainer.deepspeed_config import deepspeed_config
from finetune_trainer.model.engine import load_engine
from finetune_trainer.model.evaluate import load_batch
from finetune_trainer.model.load import load_model
from finetune_trainer.model.prepare import Prepared
from finetune_trainer.pod.paths import Paths
from finetune_trainer.ranks.distributed import Ranks
from finetune_trainer.ranks.requests import Requests
from finetune_trainer.tasks import task_of
from finetune_trainer.training.steps import sampler_of, steps

Gradients = dict[str, torch.Tensor]


def gradients_of_a_step(ranks: Ranks, config: RunConfig, paths: Paths) -> tuple[Gradients, Gradients]:
    """Return the gradients that the optimizer got in the run's only step, and their exact values.

    The exact values are the sums of the micro-batches' gradients, added in fp64.
    """
    prepared = Prepared.load(config, paths)
    engine = load_engine(config, prepared, ranks)
    (step,) = steps(engine, prepared, config, ranks, Requests(config, paths, ranks.rank))
    assert not step.skipped
    # After the first step, Adam's first moment is a tenth of the gradient.
    given = {name: state["exp_avg"].double().cpu() / 0.1 for name, state in engine_state.read(engine)}
    engine.destroy()
    return given, _summed(config, prepared, sampler_of(config, prepared), ranks.device)


def _summed(config: RunConfig, prepared: Prepared, sampler: Sampler, device: torch.device) -> Gradients:
    """Return the gradients of all ranks' micro-batches, computed in the run's precision and summed in fp64."""
    alone = config.model_copy(update={"zero_stage": 0})
    model, task = load_model(alone, prepared, deepspeed_config(alone)).train(), task_of(config.task)
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    count = sum(prepared.train[sampler.items(0).tolist()]["count"])
    sums = {name: torch.zeros_like(parameter, dtype=torch.float64) for name, parameter in named.items()}
    for rank in range(config.world.size):
        for micro_batch in sampler.micro_batches(0, rank):
            torch.manual_seed(micro_batch_seed(config.training.seed, 0, micro_batch.index))
            batch = load_batch(prepared.train, micro_batch, task, prepared, device, config)
            logits = model(**batch.features, **task.arguments).logits
            loss = task.loss_sum(*task.aligned(logits, batch.labels)) * config.world.size / count
            for name, gradient in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
                sums[name] += gradient.double() / config.world.size
    return sums
