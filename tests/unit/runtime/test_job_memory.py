"""What is remembered of a job, and which part of it is forgotten when."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.core.observed.views import Observed, PodView
from finetune_operator.runtime.job_memory import Asked, Because, Children, JobMemories, JobMemory, Key
from finetune_operator.runtime.look import LASTS, Look

KEY, OTHER, THIRD = (Key("default", name) for name in ("clauses", "other", "third"))
OBSERVED = Observed(parse(manifest(**{"metadata.uid": "u", "metadata.generation": 1})), NOW, "n")


def view(uid: str, owner: str = "j", exit_code: int | None = None) -> PodView:
    return PodView(uid=uid, name=uid, index=int(uid[-1]), owner_uid=owner, exit_code=exit_code)


def look(memories: JobMemories) -> Look:
    return Look(memories.begin_look(KEY, NOW), manifest(), OBSERVED)


def full() -> JobMemories:
    """Return memories in which everything is remembered of two jobs."""
    memories = JobMemories()
    for key, uid in ((KEY, "p0"), (OTHER, "q0")):
        memories.record(view(uid), key)
        memories.keep_look(key, Look(memories.begin_look(key, NOW), manifest(), OBSERVED))
        memory = memories.of(key)
        memory.followed.add("i")
        memory.children = Children(NOW, frozenset())
        memory.asked, memory.written, memory.phase = Asked(NOW, NOW), NOW, "Training"
    return memories


# ---- what is forgotten ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("because", "stays"),
    [
        (Because.DELETED, set()),
        (Because.AT_REST, {"recall", "written", "phase"}),
        (Because.LEAD_LOST, {"pods", "followed"}),
        (Because.CHANGED, {"pods", "followed", "children", "asked", "written", "phase"}),
        (Because.CHILD_GONE, {"pods", "followed", "asked", "written", "phase"}),
    ],
)
def test_each_occasion_has_what_it_lets_go(because: Because, stays: set[str]) -> None:
    memories, before = full(), full()
    memories.forget(KEY, because)
    nothing = JobMemory()
    left = {name for name in vars(nothing) if getattr(memories.find(KEY), name) != getattr(nothing, name)}
    assert left == stays
    assert (KEY in memories.keys) == bool(stays)
    assert (memories.pod("p0") is not None) == ("pods" in stays)
    assert memories.pod("q0") == before.pod("q0"), "another job loses nothing"
    assert memories.find(OTHER).phase == "Training"


def test_what_is_only_read_is_not_remembered() -> None:
    memories = JobMemories()
    assert memories.find(KEY) == JobMemory()
    assert memories.last_look(KEY, NOW) is None
    assert memories.merged("j", [], KEY) == ()
    memories.forget(KEY, Because.DELETED)
    memories.keep_only("j", KEY)
    assert memories.keys == frozenset()


def test_jobs_are_counted_in_the_phase_in_which_they_were_seen() -> None:
    memories = full()
    memories.of(THIRD).phase = "Complete"
    assert (memories.in_phase("Training"), memories.in_phase("Complete"), memories.seen) == (2, 1, {KEY, OTHER, THIRD})
    memories.forget(KEY, Because.LEAD_LOST)
    assert (memories.in_phase("Training"), memories.seen) == (1, {OTHER, THIRD})


# ---- pods -----------------------------------------------------------------------------------------------------------


def test_a_pod_that_is_gone_is_remembered_with_its_exit_code() -> None:
    memories = JobMemories()
    memories.record(view("p0", exit_code=76), KEY)
    memories.record(view("q1", owner="other"), KEY)
    merged = memories.merged("j", [view("p1")], KEY)
    assert [(p.uid, p.exit_code, p.present) for p in merged] == [("p0", 76, False), ("p1", None, True)]


def test_pods_of_other_owners_never_count() -> None:
    assert JobMemories().merged("j", [view("p0", owner="somebody")], KEY) == ()


def test_the_oldest_pod_goes_when_there_are_too_many() -> None:
    memories = JobMemories(capacity=2)
    for uid in ("p0", "p1", "p2"):
        memories.record(view(uid), KEY)
    assert [p.uid for p in memories.merged("j", [], KEY)] == ["p1", "p2"]


def test_the_oldest_pod_is_that_which_was_seen_longest_ago() -> None:
    memories = JobMemories(capacity=2)
    for uid in ("p0", "p1", "p0", "p2"):
        memories.record(view(uid), KEY)
    assert [p.uid for p in memories.merged("j", [], KEY)] == ["p0", "p2"]


def test_what_a_job_s_pods_have_left_is_forgotten_with_it_and_nothing_else() -> None:
    memories = JobMemories()
    for uid, owner, key in (("p0", "j", KEY), ("p1", "k", KEY), ("p2", "l", OTHER)):
        memories.record(view(uid, owner), key)
    memories.keep_only("k", KEY)
    assert [p.uid for p in (*memories.merged("j", [], KEY), *memories.merged("k", [], KEY))] == ["p1"]
    memories.forget(KEY, Because.DELETED)
    assert memories.keys == {OTHER}
    memories.forget(KEY, Because.DELETED)
    assert [p.uid for p in memories.merged("l", [], OTHER)] == ["p2"]


def test_what_was_forgotten_and_told_again_is_known_again() -> None:
    memories = JobMemories()
    memories.record(view("p0", exit_code=76), KEY)
    memories.forget(KEY, Because.DELETED)
    memories.record(view("p0", exit_code=76), KEY)
    assert [p.exit_code for p in memories.merged("j", [], KEY)] == [76]


def test_no_job_is_kept_whose_last_pod_went_for_want_of_room() -> None:
    memories = JobMemories(capacity=2)
    for number in range(9):
        memories.record(view(f"p{number}"), Key("default", f"job-{number}"))
    assert {key.name for key in memories.keys} == {"job-7", "job-8"}


def test_a_pod_whose_label_was_changed_stays_with_its_first_job() -> None:
    memories = JobMemories()
    memories.record(view("p0", exit_code=76), KEY)
    memories.record(view("p0"), OTHER)
    assert [p.exit_code for p in memories.told("j", KEY)] == [76]
    assert memories.keys == {KEY}


def test_jobs_that_another_attempt_has_followed_are_kept_in_mind_until_the_finetunejob_goes() -> None:
    memories = JobMemories()
    memories.of(KEY).followed.add("j1")
    memories.keep_only("j2", KEY)
    assert (memories.find(KEY).followed, memories.find(OTHER).followed) == ({"j1"}, set())
    memories.forget(KEY, Because.DELETED)
    assert memories.find(KEY).followed == set()


# ---- observations ---------------------------------------------------------------------------------------------------


def test_a_look_is_recalled_for_a_while() -> None:
    memories = JobMemories()
    memories.keep_look(KEY, kept := look(memories))
    assert memories.last_look(KEY, NOW) is kept
    assert memories.last_look(KEY, NOW + timedelta(seconds=LASTS - 1)) is kept
    assert memories.last_look(KEY, NOW + timedelta(seconds=LASTS)) is None


def test_a_clock_that_was_set_back_ends_it() -> None:
    memories = JobMemories()
    memories.keep_look(KEY, look(memories))
    assert memories.last_look(KEY, NOW - timedelta(seconds=1)) is None


def test_a_change_ends_it() -> None:
    memories = JobMemories()
    memories.keep_look(KEY, look(memories))
    memories.forget(KEY, Because.CHANGED)
    assert memories.last_look(KEY, NOW) is None


def test_what_others_write_into_the_job_ends_it() -> None:
    memories = JobMemories()
    mine = replace(look(memories), manifest=manifest(**{"metadata.resourceVersion": "7"}))
    memories.keep_look(KEY, mine)
    memories.of(KEY).recall.version = "7"
    assert memories.last_look(KEY, NOW) is mine
    memories.of(KEY).recall.version = "8"
    assert memories.last_look(KEY, NOW) is None


def test_a_look_during_which_something_changed_is_not_kept() -> None:
    memories = JobMemories()
    slow = look(memories)
    memories.forget(KEY, Because.CHANGED)
    memories.keep_look(KEY, slow)
    assert memories.last_look(KEY, NOW) is None
    later = look(memories)
    memories.keep_look(KEY, slow)
    assert memories.last_look(KEY, NOW) is None
    memories.keep_look(KEY, later)
    assert memories.last_look(KEY, NOW) is later
