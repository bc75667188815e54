"""The order of rows, and how the rows of a step are divided among ranks and micro-batches."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.sampler import Sampler, evaluation_batches, micro_batch_seed

SAMPLER = Sampler(rows=50, global_batch=16, micro_batch=4, world=2, seed=7, digest="d")

samplers = st.builds(
    Sampler,
    rows=st.integers(1, 200),
    global_batch=st.integers(1, 70),
    micro_batch=st.integers(1, 9),
    world=st.integers(1, 7),
    seed=st.integers(0, 2**31 - 1),
    digest=st.text(max_size=8),
)


def counted(sampler: Sampler, step: int) -> list[int]:
    """Return the rows with weight 1 on all ranks, in the order of the micro-batches."""
    micro_batches = [mb for rank in range(sampler.world) for mb in sampler.micro_batches(step, rank)]
    ordered = sorted(micro_batches, key=lambda mb: mb.index)
    return [row for mb in ordered for row, weight in zip(mb.rows, mb.weights, strict=True) if weight]


@given(samplers)
def test_an_epoch_takes_every_row_once(sampler: Sampler) -> None:
    rows = [row for step in range(sampler.steps_per_epoch) for row in counted(sampler, step)]
    assert sorted(rows) == list(range(sampler.rows))


@given(samplers, st.integers(0, 30))
def test_all_ranks_do_the_same_number_of_full_micro_batches(sampler: Sampler, step: int) -> None:
    shares = [sampler.micro_batches(step, rank) for rank in range(sampler.world)]
    assert len({len(share) for share in shares}) == 1
    assert {len(mb.rows) for share in shares for mb in share} == {sampler.micro_batch}


@given(samplers, st.integers(0, 30), st.integers(1, 5))
def test_a_micro_batch_is_the_same_in_every_world(sampler: Sampler, step: int, world: int) -> None:
    other = dataclasses.replace(sampler, world=world)
    assert counted(sampler, step) == counted(other, step) == sampler.items(step).tolist()
    mine, theirs = (
        {mb.index: mb for rank in range(s.world) for mb in s.micro_batches(step, rank) if any(mb.weights)}
        for s in (sampler, other)
    )
    assert mine == theirs


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 7))
def test_evaluation_counts_every_row_once(rows: int, micro_batch: int, world: int) -> None:
    shares = [evaluation_batches(rows, micro_batch, world, rank) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    taken = [row for share in shares for mb in share for row, weight in zip(mb.rows, mb.weights, strict=True) if weight]
    assert sorted(taken) == list(range(rows))


def test_the_last_step_of_an_epoch_is_short() -> None:
    assert [len(SAMPLER.items(step)) for step in range(8)] == [16, 16, 16, 2, 16, 16, 16, 2]


@pytest.mark.parametrize("change", [{"seed": 8}, {"digest": "e"}])
def test_seed_and_data_change_the_order(change: dict[str, object]) -> None:
    assert dataclasses.replace(SAMPLER, **change).items(0).tolist() != SAMPLER.items(0).tolist()


def test_each_epoch_has_another_order() -> None:
    assert SAMPLER.items(0).tolist() != SAMPLER.items(SAMPLER.steps_per_epoch).tolist()


ORDER = [1, 5, 4, 3, 0, 7, 9, 8, 6, 2]


def test_the_order_never_changes_between_versions() -> None:
    # A resumed run must use the order with which the run began.
    assert Sampler(rows=10, global_batch=10, micro_batch=1, world=1, seed=17, digest="d").items(0).tolist() == ORDER


def test_every_micro_batch_has_a_seed_of_its_own() -> None:
    seeds = {micro_batch_seed(17, step, index) for step in range(50) for index in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)
