"""The requests that are counted from an audit log."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from operator_benchmark.audit import AuditLog, Request, check_alone, client_of, requests, writes

CONTROLLER = "kube-controller-manager/v1.36.3 (linux/amd64) kubernetes/abc/system:serviceaccount:kube-system:x"


def entry(verb: str, resource: str, namespace: str = "ours", agent: str = "operator/1", **more: Any) -> dict[str, Any]:
    about = {"resource": resource, "namespace": namespace, **more.pop("about", {})}
    user = {"username": "admin"}
    return {"verb": verb, "stage": "ResponseComplete", "user": user, "userAgent": agent, "objectRef": about, **more}


def append(path: Path, *entries: dict[str, Any]) -> None:
    with path.open("a") as log:
        log.writelines(json.dumps(one) + "\n" for one in entries)


def test_requests_are_counted_by_client_verb_and_resource() -> None:
    seen = [entry("create", "pods"), entry("create", "pods"), entry("create", "pods", about={"subresource": "binding"})]
    assert requests(seen, "ours") == {
        Request("operator", "create", "pods"): 2,
        Request("operator", "create", "pods/binding"): 1,
    }


def test_other_namespaces_leases_and_events_do_not_count() -> None:
    seen = [entry("create", "pods", "theirs"), entry("update", "leases"), entry("create", "events")]
    assert requests([*seen, {**entry("patch", "nodes"), "objectRef": {"resource": "nodes"}}], "ours") == {}


def test_a_request_without_an_object_does_not_count() -> None:
    without = entry("get", "pods")
    del without["objectRef"]
    assert requests([without], "ours") == {}


def test_a_watch_counts_once_though_its_begin_and_its_end_are_logged() -> None:
    seen = [entry("watch", "pods", stage=stage) for stage in ("ResponseStarted", "ResponseComplete")]
    assert requests(seen, "ours") == {Request("operator", "watch", "pods"): 1}


def test_reads_and_the_generator_are_no_writes_of_a_job() -> None:
    seen = [entry(verb, "pods") for verb in ("get", "list", "watch", "patch", "deletecollection")]
    counted = requests([*seen, entry("create", "pods", agent="generator/1")], "ours")
    wanted = Counter({Request("operator", "patch", "pods"): 1, Request("operator", "deletecollection", "pods"): 1})
    assert writes(counted, without="generator") == wanted


def test_a_controller_is_named_by_its_account_and_a_program_by_its_agent() -> None:
    account = {"username": "system:serviceaccount:kube-system:job-controller"}
    assert client_of(entry("create", "pods", agent=CONTROLLER, user=account)) == "job-controller"
    assert client_of(entry("create", "pods", agent="kube-scheduler/v1.36.3 (linux/amd64)")) == "kube-scheduler"
    assert client_of({"user": {"username": "somebody"}}) == "unknown"


def test_a_second_operator_is_noticed() -> None:
    status = {"about": {"subresource": "status"}}
    ours = [entry("update", "finetunejobs", **status), entry("create", "pods", agent="job-controller")]
    check_alone(requests(ours, "ours"), "finetunejobs/status")
    other = entry("update", "finetunejobs", agent="another/2", about={"subresource": "status"})
    with pytest.raises(ValueError, match="another and operator both write finetunejobs/status"):
        check_alone(requests([*ours, other], "ours"), "finetunejobs/status")


def test_the_log_is_read_from_the_mark_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    append(path, entry("create", "pods"))
    log = AuditLog(path)
    mark = log.mark()
    assert list(log.since(mark)) == []
    append(path, entry("delete", "pods"))
    assert [found["verb"] for found in log.since(mark)] == ["delete"]


def test_a_line_that_is_half_written_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    log = AuditLog(path)
    mark, text = log.mark(), json.dumps(entry("delete", "pods"))
    path.write_text(text[:20])
    assert list(log.since(mark)) == []
    path.write_text(text + "\n")
    assert len(list(log.since(mark))) == 1


def test_a_log_that_is_rotated_twice_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    append(path, entry("create", "pods"))
    log = AuditLog(path)
    mark = log.mark()
    for number, verb in enumerate(("update", "patch")):
        append(path, entry(verb, "pods"))
        rotated = tmp_path / f"audit-2026-01-0{number + 1}.log"
        path.rename(rotated)
        os.utime(rotated, (1000 + number, 1000 + number))
    append(path, entry("delete", "pods"))
    assert [found["verb"] for found in log.since(mark)] == ["update", "patch", "delete"]


def test_a_log_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        AuditLog(tmp_path / "audit.log").mark()
