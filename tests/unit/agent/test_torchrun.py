"""The agent with the real torchrun: its flags, its log and its signals are what the agent takes them for."""

from __future__ import annotations

import pytest
from unit.agent.conftest import MakePod
from unit.agent.pod import TORCHRUN, free_port, wait_until

from finetune_trainer.contract import ExitCode

pytest.importorskip("torch", reason="needs the extra `trainer`: make setup")


def test_two_pods_meet_and_both_succeed(make_pod: MakePod) -> None:
    port = free_port()
    source = "live(); print(os.environ['MASTER_ADDR'], os.environ['WORLD_SIZE']); done()"
    pods = [make_pod(source, nodes=2, index=i, launcher=TORCHRUN, rendezvous_port=port) for i in (0, 1)]
    pods[1].start()
    wait_until(pods[1].status)
    pods[0].start()
    ends = [pod.end() for pod in pods]
    assert [code for code, _ in ends] == [0, 0], pods[0].output("stderr") + pods[1].output("stderr")
    assert {(message.world, message.config_digest) for _, message in ends} == {(2, pods[0].config.digest)}
    assert [pod.output() for pod in pods] == ["127.0.0.1 2\n"] * 2


def test_a_killed_rank_is_found_though_torchrun_ends_with_1(make_pod: MakePod) -> None:
    source = "live(); RANK == 1 and os.kill(os.getpid(), 9); wait_for('never')"
    code, message = make_pod(source, processes_per_node=2, launcher=TORCHRUN).run()
    assert code == message.exit_code == 137
    assert (message.failing_rank, message.error) == (1, "Rank 1 was killed by signal 9 (SIGKILL).")


def test_a_stop_request_lets_the_ranks_end_by_themselves(make_pod: MakePod) -> None:
    source = "live(); wait_for(contract.STOP_FILE); leave(75, error='Stopped.', error_time=time.time())"
    pod = make_pod(source, processes_per_node=2, launcher=TORCHRUN).start()
    wait_until(lambda: (status := pod.status()) and len(status.ranks) == 2)
    pod.signal()
    code, message = pod.end()
    assert code == ExitCode.PREEMPTED
    assert message.error == "Stopped."
