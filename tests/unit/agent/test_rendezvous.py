"""The rendezvous of the ranks, with the real store, and the wait for it."""

from __future__ import annotations

import socket

import pytest
from unit.agent.conftest import MakePod
from unit.agent.pod import wait_until

from finetune_operator.local.ports import free_port, free_ports
from finetune_trainer.agent import launch
from finetune_trainer.contract import ExitCode
from finetune_trainer.ranks import rendezvous

MEETS = """
from finetune_trainer.ranks.rendezvous import wait_for_store
wait_for_store((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
import torch, torch.distributed as dist
dist.init_process_group("gloo", init_method="env://")
live()
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "RETRY_SECONDS", (0.001, 0.002))
    monkeypatch.setattr(rendezvous, "REPORT_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
def test_names_that_do_not_resolve_are_tried_again_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(
        [socket.gaierror(socket.EAI_NONAME, "Name or service not known"), ConnectionRefusedError("no"), None]
    )

    def connect(*_: object, **__: object) -> socket.socket:
        if error := next(answers):
            raise error
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    rendezvous.wait_for_store(("job-0.svc", 29500))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("waiting for rank 0 at job-0.svc:29500 for 0 s: ")
    assert "Name or service not known" in first
    assert second.endswith(": no")


def test_a_port_that_answers_ends_the_wait_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        rendezvous.wait_for_store(server.getsockname())
    assert capsys.readouterr().err == ""


def test_two_pods_meet_and_both_succeed(make_pod: MakePod) -> None:
    pytest.importorskip("torch", reason="needs the extra `trainer`: make setup")
    port, *agent_ports = free_ports(3)
    source = MEETS + "sum_ = torch.ones(1)\ndist.all_reduce(sum_)\nprint(int(sum_))\ndone()"
    pods = [
        make_pod(source, nodes=2, index=index, store=launch.STORE_MODULE, ports=(agent_port, port))
        for index, agent_port in enumerate(agent_ports)
    ]
    pods[1].start()
    wait_until(pods[1].status)
    pods[0].start()
    ends = [pod.end() for pod in pods]
    assert [code for code, _ in ends] == [0, 0], pods[0].output("stderr") + pods[1].output("stderr")
    assert {(message.world, message.config_digest) for _, message in ends} == {(2, pods[0].config.digest)}
    assert [pod.output() for pod in pods] == ["2\n"] * 2


def test_a_stop_request_ends_a_pod_that_waits(make_pod: MakePod) -> None:
    pod = make_pod(MEETS + "done()", nodes=2, index=1).start()
    wait_until(pod.status)
    pod.signal()
    code, message = pod.end()
    assert code == message.exit_code == ExitCode.PREEMPTED
    assert message.error == "The pod was asked to stop before its training began."


def test_a_port_that_is_taken_is_said(make_pod: MakePod) -> None:
    pytest.importorskip("torch", reason="needs the extra `trainer`: make setup")
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        pod = make_pod("live(); wait_for('never')", nodes=2, store=launch.STORE_MODULE, ports=(free_port(), port))
        code, message = pod.run()
    assert code == message.exit_code == 1
    assert (message.error or "").startswith(
        "The process in which the ranks meet ended with exit code 1. Its last line:"
    )
    assert "EADDRINUSE" in " ".join(message.log)
