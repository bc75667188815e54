"""The phase of the job, as rank 0 reports it."""

from __future__ import annotations

import pytest

from finetune_operator.constants import Phase
from finetune_operator.core.status.progress import phase_of
from finetune_trainer.contract import Phase as RankPhase
from finetune_trainer.contract import PodStatus, RankStatus

PHASES = {
    RankPhase.INIT: Phase.STARTING,
    RankPhase.LOAD: Phase.STARTING,
    RankPhase.COMPILE: Phase.STARTING,
    RankPhase.TRAIN: Phase.TRAINING,
    RankPhase.EVAL: Phase.TRAINING,
    RankPhase.SAVE: Phase.TRAINING,
    RankPhase.EXPORT: Phase.EXPORTING,
    RankPhase.CHECK: Phase.EXPORTING,
}


def said(rank: int, phase: RankPhase) -> PodStatus:
    word = RankStatus(
        rank=rank, world=2, config_digest="c", backend="gloo", zero_stage=0, phase=phase, step=9, heartbeat=0
    )
    return PodStatus(pod_uid=f"u{rank}", attempt=1, nonce="n", index=rank, ranks=(word,))


@pytest.mark.parametrize("so_far", [Phase.STARTING, Phase.TRAINING, Phase.EXPORTING])
def test_the_phase_is_rank_zeros_whatever_was_seen_before(so_far: Phase) -> None:
    """An operator that has just started or has missed a phase reports the same as one that has observed every phase."""
    assert set(PHASES) == set(RankPhase) - {RankPhase.OTHER}
    for theirs, ours in PHASES.items():
        assert phase_of([said(1, RankPhase.TRAIN), said(0, theirs)], so_far) is ours


@pytest.mark.parametrize("so_far", [Phase.STARTING, Phase.TRAINING, Phase.EXPORTING])
def test_without_rank_zeros_word_the_phase_stays(so_far: Phase) -> None:
    assert phase_of([said(1, RankPhase.EXPORT)], so_far) is so_far
    assert phase_of([], so_far) is so_far
    assert phase_of([said(0, RankPhase("publish"))], so_far) is so_far, "a newer image's phase is not known"
