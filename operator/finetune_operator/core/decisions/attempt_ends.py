"""Ends an attempt: either another attempt follows, or the run ends with it."""

from __future__ import annotations

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJob, FineTuneJobStatus, RunStatus
from finetune_operator.constants import Phase
from finetune_operator.core.attempt import checkpoint, facts
from finetune_operator.core.attempt.cause import Cause, cause_of, has_failed, seconds_to_wait, stops_by_itself
from finetune_operator.core.attempt.deadline import active_seconds
from finetune_operator.core.attempt.restart import ON_REQUEST, GiveUp, Restart, after_failure, bad_nodes
from finetune_operator.core.attempt.stopping import seconds_until_stopped
from finetune_operator.core.decisions.decision import Decision, attempt_name
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.run.edit import holds_at_once, launched_as_edited
from finetune_operator.core.run.resolve import micro_batch_of, with_config_digest
from finetune_operator.core.run.retrain import next_attempt
from finetune_operator.core.run.volume import obstacle
from finetune_operator.core.settings import Settings
from finetune_operator.core.status import health, ledger
from finetune_operator.core.status import written as status
from finetune_operator.core.times import duration, to_text
from finetune_trainer.contract import Result


def failing(observed: Observed, run: RunStatus, settings: Settings) -> Decision:
    """Wait for the other pods' messages and checkpoints, then end the failed attempt.

    The pod that knows the cause may be the last to end, and pods that stop in order first save what they have trained.
    A pod that no longer exists reports nothing more.
    """
    assert observed.child is not None
    settle, now = settings.settle, observed.now
    words = seconds_to_wait(observed.child, observed.pods, now, settle)
    if (wait := max(words, seconds_until_stopped(observed.pods, settle, now))) > 0:
        return Decision(None, look_again=min(1.0, wait))
    return end_as_failure(observed, run, cause_of(observed.child, observed.pods, run.world // run.nodes), settings)


def end_as_failure(
    observed: Observed, run: RunStatus, cause: Cause, settings: Settings, edited: FineTuneJob | None = None
) -> Decision:
    """End the attempt as failed; another attempt follows, or the run ends.

    `edited` is the job with the edited spec, if the next attempt is launched from that spec.
    """
    spec, now = observed.job.spec, observed.now
    before = _with_last_words(observed)
    newest = before.checkpoint
    rows, progressed = micro_batch_of(spec, run), checkpoint.has_progressed(run, newest)
    follows = after_failure(cause.failure, run, rows, spec.fault_tolerance, now, observed.jitter, progressed)
    step = before.progress.step if before.progress else None
    addition = follows.why if isinstance(follows, GiveUp) else follows.change
    saved = newest.step if newest and checkpoint.is_there(newest) else None
    entry = ledger.failure(run, cause, follows.counted, addition, step, now, saved)
    after = status.between_attempts(observed, ledger.entered(before, entry), health.after_attempt(entry))
    if isinstance(follows, Restart):
        avoid = bad_nodes(after.ledger, run.number, spec.fault_tolerance, now)
        active = active_seconds(run, observed.pods, now)
        following = next_attempt(before, run, follows, avoid, active, observed.nonce, now)
        if edited:
            following = launched_as_edited(edited, following, settings)
        else:
            following = with_config_digest(observed.job, following, settings)
        after = after.model_copy(update={"run": following, "progress": None})
        if spec.suspend and cause.failure in ON_REQUEST:
            present = sum(pod.present for pod in observed.pods)
            suspending = status.as_suspending(observed, after, run, present)
            return Decision(suspending if observed.child else after, look_again=0)
        when = f" in {duration(follows.delay)}" if follows.delay else " now"
        when = " when spec.suspend is false" if spec.suspend else when
        words = {"attempt": following.attempt, "run": run.number, "when": when, "start": checkpoint.start(newest)}
        words["detail"] = ledger.described(entry)
        after = status.in_phase(observed, after, Phase.RESTARTING, constants.RESTARTING, **words)
        must_go = observed.child and not observed.child.deleted and not stops_by_itself(observed.pods)
        delete = attempt_name(observed, run) if must_go else None
        if cause.failure in ON_REQUEST or not _may_follow_at_once(observed, following, settings):
            return Decision(after, delete_job=delete, look_again=0)
        return Decision(after, delete_job=delete, create_children=True, look_again=settings.waiting_interval)
    after = after.model_copy(update={"run": ended_run(observed, run, release=True)})
    return Decision(status.as_failed(observed, after, entry), look_again=0)


def _may_follow_at_once(observed: Observed, following: RunStatus, settings: Settings) -> bool:
    """Return whether the next attempt can be created by the same reconcile.

    It can if it has no delay, the job is not to be suspended, its spec is known, no edit takes its place, its claims
    are known to exist, and no pod can still hold the claim of its storage. Several nodes share their claim, so no pod
    has to release it first.
    """
    spec, claims = observed.job.spec, observed.claims
    known = claims is not None or settings.local
    if not known or obstacle(spec, following.claim_name, following.nodes, claims):
        return False
    waits = observed.job.spec.suspend or following.not_before or observed.spec_lost or holds_at_once(observed)
    ended = observed.child and all(pod.ended_or_gone for pod in observed.pods)
    return not waits and bool(following.nodes > 1 or ended)


def read_result(observed: Observed, run: RunStatus) -> Decision:
    """Have a small Job read rank 0's last message from the workspace.

    All pods ended well, but rank 0's pod no longer exists. Its message names the result; without it, the same model
    would be trained once more.
    """
    if observed.look_job is None:  # the status changes once the Job exists, whose creation may be refused
        return Decision(create_look_job=True, look_again=0)
    words = {"attempt": run.attempt, "run": run.number}
    now = status.in_phase(observed, observed.job.status, Phase.EXPORTING, constants.READING_RESULT, **words)
    return Decision(now, look_again=5)


def end_as_success(observed: Observed, run: RunStatus, result: Result) -> Decision:
    """End the attempt with a result, and its run with it."""
    entry = ledger.success(run, result.last_step or result.step, observed.now)
    after = status.with_result(ledger.entered(_with_last_words(observed), entry), result)
    after = status.between_attempts(observed, after.model_copy(update={"run": ended_run(observed, run, release=False)}))
    return Decision(status.as_complete(observed, after, run), look_again=0)


def _with_last_words(observed: Observed) -> FineTuneJobStatus:
    """Return the status with the checkpoint and the facts that the ended pods reported."""
    before = observed.job.status
    newest = checkpoint.last(observed.pods, before.checkpoint)
    return before.model_copy(update={"checkpoint": newest, "facts": facts.from_pods(observed.pods, before.facts)})


def ended_run(observed: Observed, run: RunStatus, release: bool) -> RunStatus:
    """Return the run with its completion time.

    The run's `release` flag means that its Job must be deleted. If the argument `release` is set, the flag is set when
    pods are still alive, or when a quota or a queue has kept them back; pods that have ended stay for their logs. The
    flag is set in any case when another container keeps a pod running after its trainer has ended.
    """
    child = observed.child
    job_uid = child.uid if child else run.job_uid
    alive = any(pod.present and pod.exit_code is None and pod.phase != "Failed" for pod in observed.pods)
    awaited = child is not None and not child.succeeded and not has_failed(child, observed.pods)
    must_go = (release and (alive or awaited)) or any(pod.outlives_trainer for pod in observed.pods)
    # Unless it is `edited`, all changes of the spec since the run began took effect at once.
    generation = run.generation if observed.edited else observed.job.metadata.generation
    update = {"job_uid": job_uid, "release": must_go, "generation": generation}
    return run.model_copy(update={"completion_time": to_text(observed.now), **update})
