from finetune_operator.core.observed import PodView
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
