from typing import Any

import pytest
from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import FineTuneJob
from finetune_operator.core.run.resolve import micro_batch_size, recipe_digest, run_config, world_of
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_trainer.contract import CONTRACT_VERSION


def job(**changes: Any) -> FineTuneJob:
    return parse(manifest(**{"metadata.uid": "0b5e-1", **changes}))


def config_of(job: FineTuneJob) -> Any:
    settings = Settings(image="i")
    return run_config(job, next_run(job, 1, settings, "nonce", NOW), settings)


@pytest.mark.parametrize(
    ("batch", "world", "micro"),
    [(32, 1, 8), (32, 4, 8), (64, 3, 8), (12, 1, 6), (1, 8, 1), (50, 2, 7), (8, 8, 1), (9, 1, 5)],
)
def test_a_rank_s_share_is_cut_into_few_equal_parts(batch: int, world: int, micro: int) -> None:
    assert micro_batch_size(batch, world) == micro


@pytest.mark.parametrize("batch", range(1, 70))
def test_padding_is_less_than_one_row_for_each_forward_pass(batch: int) -> None:
    for world in range(1, 9):
        micro = micro_batch_size(batch, world)
        share = -(-batch // world)
        passes = -(-share // micro)
        assert 1 <= micro <= 8
        assert passes * micro - share < passes


def test_defaults_follow_from_other_fields() -> None:
    lora = config_of(job())
    assert (lora.lora.rank, lora.lora.alpha, lora.lora.dropout) == (16, 32.0, 0.0)
    assert (lora.training.epochs, lora.training.learning_rate, lora.training.precision) == (3, 2e-4, "fp32")
    assert lora.metrics == ("accuracy", "f1")
    full = config_of(job(**{"spec.method": {"type": "Full"}, "spec.training.maxSteps": 7}))
    assert (full.lora, full.training.epochs, full.training.max_steps, full.training.learning_rate) == (
        None,
        None,
        7,
        2e-5,
    )
    gpus = job(**{"spec.resources": {"nodes": 2, "gpusPerNode": 4}})
    assert (world_of(gpus.spec).size, config_of(gpus).training.precision) == (8, "bf16")


def test_a_dropout_or_an_alpha_that_the_user_wrote_stays() -> None:
    lora = config_of(job(**{"spec.method": {"rank": 4, "alpha": 4, "dropout": 0.1}})).lora
    assert (lora.rank, lora.alpha, lora.dropout) == (4, 4, 0.1)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"spec.resources": {"nodes": 4, "gpusPerNode": 0, "memory": "1Gi"}}, True),
        ({"spec.deepspeed.zeroStage": 3}, True),
        ({"spec.image": "another"}, True),
        ({"spec.podTemplate.labels": {"a": "b"}}, True),
        ({"spec.storage.claimName": "other"}, True),
        ({"spec.training.epochs": 3}, True),
        ({"spec.method": {"rank": 16, "alpha": 32, "dropout": 0}}, True),
        ({"spec.evaluate.metrics": ["accuracy", "f1"]}, True),
        ({"spec.resources": {"gpusPerNode": 1}, "spec.training.precision": "fp32"}, True),
        ({"spec.resources": {"gpusPerNode": 1}}, False),
        ({"spec.training.seed": 18}, False),
        ({"spec.training.learningRate": 1e-3}, False),
        ({"spec.dataset.uri": "workspace://b.jsonl"}, False),
        ({"spec.deepspeed.config": {"communication_data_type": "fp32"}}, False),
        ({"spec.output.merge": True}, False),
        ({"spec.evaluate": {"keep": "Best"}}, True),
        ({"spec.evaluate": {"keep": "Last"}}, False),
        ({"spec.evaluate": {"everySteps": 50}}, False),
        ({"spec.training.earlyStopping": {"patience": 2}}, False),
        ({"spec.dataset.maxBadFraction": 0.5}, True),
    ],
)
def test_the_recipe_is_what_is_trained_and_not_where(changes: dict[str, Any], same: bool) -> None:
    assert (recipe_digest(job().spec, CONTRACT_VERSION) == recipe_digest(job(**changes).spec, CONTRACT_VERSION)) is same


def test_the_digest_of_a_configuration_is_the_same_wherever_it_is_made() -> None:
    made = config_of(job())
    assert made.digest == type(made).model_validate_json(made.to_json()).digest
    assert made.digest != made.model_copy(update={"nonce": "other"}).digest


def test_another_secret_for_the_same_model_is_the_same_recipe() -> None:
    first, second = (job(**{"spec.model": {"uri": "hf://a/b", "secretName": name}}) for name in ("old", "new"))
    assert recipe_digest(first.spec, CONTRACT_VERSION) == recipe_digest(second.spec, CONTRACT_VERSION)


def test_a_run_that_an_older_operator_started_goes_on_as_its_image_knows_it() -> None:
    settings = Settings(image="i")
    run = next_run(job(), 1, settings, "nonce", NOW)
    new, old = (run_config(job(), run.model_copy(update={"contract": version}), settings) for version in (2, 1))
    assert (new.keep, old.keep) == ("Best", "Last")
    assert '"contract":2' in new.to_json()
    assert '"contract":' not in old.to_json()
    assert '"keep":"' not in old.to_json()


def test_a_default_that_came_with_an_upgrade_is_no_other_recipe() -> None:
    """The digest of a run of an older release does not contain which model is kept."""
    assert recipe_digest(job().spec, 1) == recipe_digest(job(**{"spec.evaluate": {"keep": "Last"}}).spec, 1)
    assert recipe_digest(job().spec, 1) != recipe_digest(job(**{"spec.evaluate": {"everySteps": 5}}).spec, 1)
