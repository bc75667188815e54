from finetune_operator.core.observed.views import PodView
from finetune_operator.runtime.evidence import Evidence


def view(uid: str, owner: str = "j", exit_code: int | None = None) -> PodView:
    return PodView(uid=uid, name=uid, index=int(uid[-1]), owner_uid=owner, exit_code=exit_code)


def test_a_pod_that_is_gone_is_remembered_with_its_exit_code() -> None:
    evidence = Evidence()
    evidence.record(view("p0", exit_code=76))
    evidence.record(view("q1", owner="other"))
    assert [(p.uid, p.exit_code) for p in evidence.merged("j", [view("p1")])] == [("p0", 76), ("p1", None)]


def test_pods_of_other_owners_never_count() -> None:
    assert Evidence().merged("j", [view("p0", owner="somebody")]) == ()


def test_the_oldest_goes_when_the_map_is_full() -> None:
    evidence = Evidence(capacity=2)
    for uid in ("p0", "p1", "p2"):
        evidence.record(view(uid))
    assert [p.uid for p in evidence.merged("j", [])] == ["p1", "p2"]


def test_what_a_job_s_pods_have_left_is_forgotten_with_it_and_nothing_else() -> None:
    evidence = Evidence()
    for uid, owner, job in (("p0", "j", "a"), ("p1", "k", "a"), ("p2", "l", "b")):
        evidence.record(view(uid, owner), job)
    evidence.forget("a", but="k")
    assert [p.uid for p in (*evidence.merged("j", [], "a"), *evidence.merged("k", [], "a"))] == ["p1"]
    evidence.forget("a")
    assert (len(evidence), evidence.jobs) == (1, {"b"})
    evidence.forget("a")
    assert [p.uid for p in evidence.merged("l", [], "b")] == ["p2"]


def test_what_was_forgotten_and_told_again_is_known_again() -> None:
    evidence = Evidence()
    evidence.record(view("p0", exit_code=76), "a")
    evidence.forget("a")
    evidence.record(view("p0", exit_code=76), "a")
    assert [p.exit_code for p in evidence.merged("j", [], "a")] == [76]


def test_a_full_map_keeps_no_job_without_pods() -> None:
    evidence = Evidence(capacity=2)
    for number in range(9):
        evidence.record(view(f"p{number}"), f"job-{number}")
    assert (len(evidence), evidence.jobs) == (2, {"job-7", "job-8"})


def test_jobs_that_another_attempt_has_followed_are_kept_in_mind_until_the_finetunejob_goes() -> None:
    evidence = Evidence()
    evidence.outdate("j1", "a")
    evidence.forget("a", but="j2")
    assert [evidence.is_outdated(*asked) for asked in (("j1", "a"), ("j2", "a"), ("j1", "b"), (None, "a"))] == [
        True, False, False, False,
    ]  # fmt: skip
    evidence.forget("a")
    assert not evidence.is_outdated("j1", "a")
