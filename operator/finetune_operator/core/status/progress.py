"""Derives phase, progress and WorldReady from the agents' answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from finetune_operator.api.v1alpha1 import ProgressStatus, RunStatus, SlowestStatus
from finetune_operator.constants import Phase
from finetune_operator.core.observed.plausible import is_plausible
from finetune_operator.core.observed.views import PodView
from finetune_operator.core.settings import Settings
from finetune_operator.core.times import LARGEST_SECONDS, duration, from_text, to_text
from finetune_trainer import contract
from finetune_trainer.contract import PodStatus, RankStatus

_TRAINING = (contract.Phase.TRAIN, contract.Phase.EVAL, contract.Phase.SAVE)


MOMENT = 3.0
"""Seconds in which the other pods mostly get a node after the first one; the API's times are whole seconds."""


def valid(run: RunStatus, answer: PodStatus, pod_uid: str, index: int | None) -> bool:
    """Return whether an answer is from this attempt's pod, about that pod alone, and plausible.

    All other answers are dropped. `index` is the pod's index in its Job, according to the cluster.
    """
    ours = answer.pod_uid == pod_uid and answer.attempt == run.attempt and answer.nonce == run.nonce
    return ours and answer.index == index and _about_itself(run, answer) and _plausible(answer)


def _about_itself(run: RunStatus, answer: PodStatus) -> bool:
    """Return whether an answer is about the pod's own ranks, each once.

    Only the pod of rank 0 may report progress and checkpoints.
    """
    if not 0 <= answer.index < run.nodes:
        return False
    processes = run.world // run.nodes
    own = range(answer.index * processes, (answer.index + 1) * processes)
    ranks = [rank.rank for rank in answer.ranks]
    slowest = answer.progress.slowest_rank if answer.progress else None
    return (
        len(set(ranks)) == len(ranks)
        and all(rank in own for rank in ranks)
        and ((answer.progress is None and answer.checkpoint is None) or answer.index == 0)
        and (slowest is None or 0 <= slowest < run.world)
    )


def _plausible(answer: PodStatus) -> bool:
    """Return whether a status can hold the figures of an answer.

    They must be finite, have at most 64 bits and, if they are times, be valid dates. Only a loss may be negative.
    """
    figures: list[float | None] = [figure for rank in answer.ranks for figure in (rank.heartbeat, rank.step)]
    if answer.progress:
        figures += answer.progress.model_dump(exclude={"loss"}).values()
        loss = answer.progress.loss
        if loss is not None and not -LARGEST_SECONDS < loss < LARGEST_SECONDS:
            return False
    if answer.checkpoint and not is_plausible(answer.checkpoint):
        return False
    return all(figure is None or 0 <= figure < LARGEST_SECONDS for figure in figures)


def attested(run: RunStatus, answers: Iterable[PodStatus]) -> list[RankStatus]:
    """Return the ranks that attested the world and the configuration that were asked for."""
    return [
        rank
        for answer in answers
        for rank in answer.ranks
        if rank.world == run.world and rank.config_digest == run.config_digest and 0 <= rank.rank < run.world
    ]


def attested_pods(run: RunStatus, answers: Mapping[str, PodStatus]) -> frozenset[str]:
    """Return the UIDs of the pods whose ranks have all attested."""
    processes = run.world // run.nodes
    return frozenset(uid for uid, answer in answers.items() if len(attested(run, [answer])) == processes)


def world_complete(run: RunStatus, answers: Iterable[PodStatus]) -> bool:
    """Return whether every rank has attested, each once."""
    return sorted(rank.rank for rank in attested(run, answers)) == list(range(run.world))


def seconds_to_next_look(run: RunStatus, all_run: bool, now: datetime, settings: Settings) -> float:
    """Return the seconds until the next reconcile while ranks have not reported yet.

    The intervals are short at first and then a quarter of the time waited. When all pods run, an event reports it.
    """
    shortest = settings.starting_interval if all_run else settings.waiting_interval
    waited = (now - from_text(run.attempt_time or run.start_time)).total_seconds()
    return max(shortest, min(waited / 4, settings.progress_interval))


def starts_now(pods: Iterable[PodView], now: datetime) -> bool:
    """Return whether the first pod got its node only a moment ago.

    The other pods mostly follow, and one message then suffices for all of them.
    """
    first = min((pod.scheduled_at for pod in pods if pod.scheduled_at), default=None)
    return first is not None and (now - first).total_seconds() < MOMENT


def phase_of(answers: Iterable[PodStatus], so_far: Phase) -> Phase:
    """Return the phase that rank 0 reports.

    The phase stays as it is if rank 0 reports none, or if a newer image reports an unknown one.
    """
    first = next((rank for answer in answers for rank in answer.ranks if rank.rank == 0), None)
    if first is None or first.phase is contract.Phase.OTHER:
        return so_far
    if first.phase in (contract.Phase.EXPORT, contract.Phase.CHECK):
        return Phase.EXPORTING
    return Phase.TRAINING if first.phase in _TRAINING else Phase.STARTING


def progress_of(
    run: RunStatus, answers: Iterable[PodStatus], pods: Iterable[PodView], so_far: ProgressStatus | None
) -> ProgressStatus | None:
    """Return rank 0's progress in figures for users, or else the known progress."""
    for answer in answers:
        if answer.progress is None:
            continue
        told = answer.progress
        heartbeat = max((rank.heartbeat for rank in answer.ranks if rank.rank == 0), default=None)
        return ProgressStatus(
            step=told.step,
            total_steps=told.total_steps,
            epoch=round(told.epoch, 2),
            loss=_significant(told.loss),
            learning_rate=_significant(told.learning_rate),
            tokens_per_second=_significant(told.tokens_per_second),
            samples_per_second=_significant(told.samples_per_second),
            eta_seconds=None if told.eta_seconds is None else round(told.eta_seconds),
            eta=None if told.eta_seconds is None else duration(told.eta_seconds),
            heartbeat_time=None if heartbeat is None else to_text(datetime.fromtimestamp(heartbeat, UTC)),
            step_seconds=_significant(told.step_seconds),
            skipped_steps=told.skipped_steps,
            loss_spikes=told.loss_spikes,
            slowest=_slowest(run, told, pods),
        )
    return so_far


def _slowest(run: RunStatus, told: contract.Progress, pods: Iterable[PodView]) -> SlowestStatus | None:
    if told.slowest_rank is None or told.slowness is None:
        return None
    index = told.slowest_rank // (run.world // run.nodes)
    pod = next((pod for pod in pods if pod.index == index and pod.present), None)
    return SlowestStatus(
        rank=told.slowest_rank,
        pod=pod.name if pod else None,
        node=pod.node if pod else None,
        times=float(f"{told.slowness:.3g}"),
    )


def _significant(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
