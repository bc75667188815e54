"""The agent as a process with the test's ranks: what it starts, what it answers and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import textwrap
from pathlib import Path

import pytest
from unit.agent.conftest import MakePod
from unit.agent.pod import wait_until

from finetune_trainer.contract import CONTRACT_VERSION, MAX_TERMINATION_MESSAGE_BYTES, ExitCode, Patience


def is_gone(pid: int) -> bool:
    """Return whether no process with this id exists, not even a zombie."""
    return not Path(f"/proc/{pid}").exists()


def test_a_pod_whose_ranks_succeed_ends_with_zero_and_the_result(make_pod: MakePod) -> None:
    pod = make_pod("live(); done()", processes_per_node=2)
    code, message = pod.run()
    assert code == message.exit_code == ExitCode.DONE
    assert (message.pod_uid, message.attempt, message.nonce) == ("uid-0", 3, "n0")
    assert (message.world, message.config_digest, message.step) == (2, pod.config.digest, 9)
    assert message.result
    assert message.result.metrics == {"f1": 0.5}
    assert message.error is None


def test_a_success_of_rank_zero_without_a_result_is_none(make_pod: MakePod) -> None:
    code, message = make_pod("leave(0)").run()
    assert code == message.exit_code == 1
    assert message.error == "Rank 0 ended without an error and without a result."


@pytest.mark.parametrize("exit_code", [76, 79, 1])
def test_the_exit_code_is_the_ranks(make_pod: MakePod, exit_code: int) -> None:
    code, message = make_pod(f"leave({exit_code}, error='The reason.', error_time=5.0)").run()
    assert code == message.exit_code == exit_code
    assert (message.failing_rank, message.error, message.error_time) == (0, "The reason.", 5.0)


def test_the_rank_that_failed_first_is_the_cause(make_pod: MakePod) -> None:
    source = """
    ignore_sigterm()
    print(f"words of rank {RANK}")
    if RANK == 0:
        wait_for("rank-1.exit.json")
        leave(1, error="Connection closed by peer.", error_time=20.0)
    leave(76, error="Column label is missing.", error_time=10.0)
    """
    code, message = make_pod(source, processes_per_node=2).run()
    assert code == ExitCode.INVALID
    assert (message.failing_rank, message.error) == (1, "Column label is missing.")
    assert message.log == ("words of rank 1",)


def test_a_rank_killed_by_signal_9_is_137(make_pod: MakePod) -> None:
    code, message = make_pod("live(4); os.kill(os.getpid(), 9)", processes_per_node=2).run()
    assert code == message.exit_code == 137
    assert message.step == 4
    assert "killed by signal 9 (SIGKILL)" in (message.error or "")


def test_a_rank_that_trains_alone_and_is_frozen_is_ended_as_hung(make_pod: MakePod) -> None:
    pod = make_pod("live(3); (SCRATCH / contract.rank_beat_file(RANK)).touch(); os.kill(os.getpid(), signal.SIGSTOP)")
    config = pod.config.model_copy(update={"patience": Patience(silent=0.5)})
    pod.run_json.write_text(config.to_json())
    code, message = pod.run()
    assert code == message.exit_code == ExitCode.HUNG
    assert message.error == "Rank 0 has shown no sign of life for 1 s: its process is frozen."
    assert (message.failing_rank, message.slowest_rank, message.step) == (0, 0, 3)


def test_a_rank_killed_while_the_oom_killer_struck_is_out_of_memory(make_pod: MakePod) -> None:
    source = """
    live()
    Path(os.environ["EVENTS"]).write_text("low 0\\noom 1\\noom_kill 1\\n")
    os.kill(os.getpid(), 9)
    """
    pod = make_pod(source)
    pod._environment["EVENTS"] = str(pod.cgroup / "memory.events")
    code, message = pod.run()
    assert code == ExitCode.OUT_OF_MEMORY
    assert message.error == "Rank 0 was killed because the pod ran out of memory; raise resources.memory."


def test_a_rank_that_ends_without_a_word_is_a_failure_that_says_what_is_known(make_pod: MakePod) -> None:
    code, message = make_pod("print('last words'); os._exit(3)").run()
    assert code == message.exit_code == 1
    assert message.error == ("Rank 0 ended without saying why, with exit code 3. Its last line: last words")
    assert message.log == ("last words",)


def test_a_rank_that_cannot_even_start_is_heard(make_pod: MakePod) -> None:
    code, message = make_pod("import torch_of_another_image").run()
    assert code == 1
    assert message.log[-1] == "ModuleNotFoundError: No module named 'torch_of_another_image'"
    assert message.world is None


def test_a_store_that_ends_is_the_cause_and_its_words_are_the_log(make_pod: MakePod) -> None:
    pod = make_pod("ignore_sigterm(); live(); wait_for('never')", processes_per_node=2).start()
    wait_until(lambda: (status := pod.status()) and len(status.ranks) == 2)
    (pod.scratch / "end-store").write_text("3")
    code, message = pod.end()
    assert code == message.exit_code == 1
    assert message.failing_rank is None
    assert message.error == (
        "The process in which the ranks meet ended with exit code 3. Its last line: the store has reasons"
    )


def test_only_pod_zero_keeps_a_store(make_pod: MakePod) -> None:
    second = make_pod("done()", nodes=2, index=1)
    assert second.run()[0] == 0
    assert "store at" not in second.output("stderr")
    first = make_pod("done()", nodes=2)
    assert first.run()[0] == 0
    assert f"store at {first._environment['FINETUNE_RENDEZVOUS']}" in first.output("stderr")


def test_a_rank_alone_has_nobody_to_meet(make_pod: MakePod) -> None:
    pod = make_pod("done()")
    assert pod.run()[0] == 0
    assert "store at" not in pod.output("stderr")


def test_ranks_that_disagree_about_the_world_are_a_mismatch(make_pod: MakePod) -> None:
    code, message = make_pod("leave(0, world=2 + RANK, result=RESULT)", processes_per_node=2).run()
    assert code == ExitCode.MISMATCH
    assert message.world is message.config_digest is None
    assert "rank 0 found 2" in (message.error or "")
    assert "rank 1 found 3" in (message.error or "")


def test_status_tells_what_the_ranks_and_rank_zero_say(make_pod: MakePod) -> None:
    source = """
    live(5)
    if RANK == 0:
        write(contract.PROGRESS_FILE, contract.Progress(step=5, total_steps=10, epoch=0.5, loss=1.25))
    wait_for("go")
    done()
    """
    pod = make_pod(source, processes_per_node=2).start()
    status = wait_until(lambda: (found := pod.status()) and len(found.ranks) == 2 and found.progress and found)
    assert (status.pod_uid, status.attempt, status.nonce, status.index) == ("uid-0", 3, "n0", 0)
    assert [(rank.rank, rank.world, rank.step) for rank in status.ranks] == [(0, 2, 5), (1, 2, 5)]
    assert {rank.config_digest for rank in status.ranks} == {pod.config.digest}
    assert status.progress
    assert status.progress.loss == 1.25
    wait_until(lambda: 'finetune_heartbeat_age_seconds{rank="1",phase="train"}' in pod.get("/metrics")[1])
    assert pod.get("/status/more")[0] == 404
    (pod.scratch / "go").touch()
    assert pod.end()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_request_reaches_the_ranks_as_a_file_and_not_as_a_signal(make_pod: MakePod, number: int) -> None:
    source = """
    signal.signal(signal.SIGTERM, lambda *_: (SCRATCH / "terminated").touch())
    live()
    wait_for(contract.STOP_FILE)
    wait_for("go")
    leave(75, error="Stopped.", error_time=1.0)
    """
    pod = make_pod(source, processes_per_node=2).start()
    wait_until(lambda: (status := pod.status()) and len(status.ranks) == 2)
    pod.signal(number)
    wait_until((pod.scratch / "stop").exists)
    pod.signal(number)  # has no effect
    wait_until(pod.status)
    assert not (pod.scratch / "terminated").exists()
    (pod.scratch / "go").touch()
    code, message = pod.end()
    assert code == message.exit_code == ExitCode.PREEMPTED
    assert message.error == "Stopped."
    assert pod.output("stderr").count("asked to stop") == 1


def test_ranks_that_do_not_stop_are_ended_at_the_deadline_and_none_is_left(make_pod: MakePod) -> None:
    source = """
    signal.signal(signal.SIGTERM, lambda *_: (SCRATCH / "terminated").touch())
    (SCRATCH / f"pid-{RANK}").write_text(str(os.getpid()))
    live()
    wait_for("never")
    """
    pod = make_pod(source, processes_per_node=2, grace=1.5).start()
    wait_until(lambda: (status := pod.status()) and len(status.ranks) == 2)
    pids = [int((pod.scratch / f"pid-{rank}").read_text()) for rank in (0, 1)]
    pod.signal()
    code, message = pod.end()
    assert code == message.exit_code == ExitCode.PREEMPTED
    assert "had not stopped" in (message.error or "")
    assert (pod.scratch / "terminated").exists(), "SIGTERM comes first"
    assert all(is_gone(pid) for pid in pids)


def test_orphans_are_reaped_while_the_ranks_run(make_pod: MakePod) -> None:
    source = """
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            while not (SCRATCH / "adopted").exists():
                (SCRATCH / "orphan.new").write_text(f"{os.getpid()} {os.getppid()}")
                (SCRATCH / "orphan.new").replace(SCRATCH / "orphan")
                time.sleep(0.01)
        os._exit(0)
    os.waitpid(middle, 0)
    live()
    wait_for("go")
    done()
    """
    pod = make_pod(source).start()
    assert pod.process
    agent = pod.process.pid

    def orphan() -> int | None:
        path = pod.scratch / "orphan"
        pid, parent = map(int, path.read_text().split()) if path.exists() else (0, 0)
        return pid if parent == agent else None

    pid = wait_until(orphan)
    assert not is_gone(pid)
    (pod.scratch / "adopted").touch()
    wait_until(lambda: is_gone(pid))
    assert pod.is_alive()
    (pod.scratch / "go").touch()
    assert pod.end()[0] == 0


def test_a_process_that_a_rank_left_behind_does_not_outlive_the_pod(make_pod: MakePod) -> None:
    source = """
    child = os.fork()
    if child == 0:
        os.setsid()
        wait_for("never")
    (SCRATCH / "pid").write_text(str(child))
    done()
    """
    pod = make_pod(source)
    assert pod.run()[0] == 0
    assert is_gone(int((pod.scratch / "pid").read_text()))


def test_output_passes_through_unchanged_and_with_prefixes_only_for_several_ranks(
    make_pod: MakePod, tmp_path: Path
) -> None:
    source = "print('straße', flush=True); print('no newline', end='', file=sys.stderr); done()"
    alone = make_pod(source)
    alone.run()
    assert alone.output() == "straße\n"
    assert "no newline\n" in alone.output("stderr")
    both = make_pod("print('step', RANK); done()", nodes=2, processes_per_node=2, index=1)
    both.run()
    assert sorted(both.output().splitlines()) == ["[rank 2] step 2", "[rank 3] step 3"]


def test_secrets_of_the_environment_are_in_no_message(make_pod: MakePod) -> None:
    source = """
    print("opening with hf_0123456789 failed")
    leave(76, error="Token hf_0123456789 was refused.", error_time=1.0)
    """
    pod = make_pod(source, environment={"HF_TOKEN": "hf_0123456789", "SHORT_KEY": "was"})
    _, message = pod.run()
    assert message.error == "Token *** was refused."
    assert message.log == ("opening with *** failed",)
    assert pod.record()["log"][0] == "opening with *** failed"
    assert "hf_0123456789" not in json.dumps(pod.record())


def test_the_message_fits_the_kubelet_and_the_workspace_keeps_the_full_log(make_pod: MakePod) -> None:
    source = """
    for line in range(100):
        print(f"{line:03}", "ü" * 300)
    leave(77, error="x" * 6000, error_time=1.0)
    """
    pod = make_pod(source)
    code, message = pod.run()
    assert code == ExitCode.DIVERGED
    assert pod.termination_log.stat().st_size <= MAX_TERMINATION_MESSAGE_BYTES
    assert (message.error or "").startswith("xxx")
    record = pod.record()
    assert [line[:3] for line in record["log"][:100]] == [f"{line:03}" for line in range(100)]
    assert record["error"] == "x" * 6000
    assert record["exitCode"] == 77


def test_a_record_that_cannot_be_written_does_not_change_the_exit_code(make_pod: MakePod) -> None:
    pod = make_pod("done()")
    (pod.workspace / "legal").write_text("a file where a folder should be")
    code, message = pod.run()
    assert code == message.exit_code == 0
    assert "record cannot be written" in pod.output("stderr")


def test_files_of_a_former_container_are_not_believed(make_pod: MakePod) -> None:
    pod = make_pod("print((SCRATCH / contract.STOP_FILE).exists()); wait_for('go'); os._exit(0)")
    (pod.scratch / "stop").touch()
    (pod.scratch / "rank-0.exit.json").write_text('{"rank":0,"exitCode":77}')
    (pod.scratch / "rank-0.status.json").write_text("{}")
    (pod.scratch / "cache").mkdir()
    pod.start()
    wait_until(lambda: pod.output() == "False\n")
    assert (pod.scratch / "cache").is_dir()
    (pod.scratch / "go").touch()
    assert pod.end()[0] == 1, "no rank of this container has said how it ended"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: No such file or directory."),
        ("{", "is not valid at the file: Invalid JSON"),
        ('{"namespace": 3}', "is not valid at namespace: Input should be a valid string."),
    ],
)
def test_an_unreadable_configuration_is_refused_with_one_sentence(
    make_pod: MakePod, text: str | None, said: str
) -> None:
    pod = make_pod("done()")
    pod.run_json.unlink() if text is None else pod.run_json.write_text(text)
    code, message = pod.run()
    assert code == message.exit_code == ExitCode.INVALID
    assert said in (message.error or "")
    assert str(pod.run_json) in (message.error or "")
    assert "Traceback" not in pod.output("stderr")


def test_a_run_json_of_a_newer_operator_ends_the_pod_with_a_sentence_that_names_the_remedy(make_pod: MakePod) -> None:
    pod = make_pod("done()")
    pod.run_json.write_text('{"contract":99,"whatever":"comes"}')
    code, message = pod.run()
    assert code == message.exit_code == ExitCode.INVALID
    assert message.error == (
        f"image: this trainer reads contract {CONTRACT_VERSION}, but the operator wrote 99; use a newer image."
    )
    assert message.contract == CONTRACT_VERSION
    assert "Traceback" not in pod.output("stderr")


def test_a_workspace_that_cannot_be_written_is_refused_with_its_owner_and_mode(make_pod: MakePod) -> None:
    pod = make_pod("done()")
    pod.workspace.rmdir()
    pod.workspace.write_text("not a folder")
    pod.workspace.chmod(0o640)
    code, message = pod.run()
    assert code == message.exit_code == ExitCode.INVALID
    owner = f"uid {pod.workspace.stat().st_uid}, gid {pod.workspace.stat().st_gid} and has mode -rw-r-----"
    assert f"The workspace {pod.workspace} cannot be written by uid {os.getuid()}" in (message.error or "")
    assert owner in (message.error or "")


def test_a_missing_variable_is_named(make_pod: MakePod) -> None:
    pod = make_pod("done()")
    del pod._environment["FINETUNE_RENDEZVOUS"]
    assert pod.start().process
    assert pod.process.wait(60) == ExitCode.INVALID  # type: ignore[union-attr]
    assert pod.output("stderr") == "agent: Environment variable FINETUNE_RENDEZVOUS is missing; the operator sets it.\n"


def test_a_port_that_is_taken_is_said(make_pod: MakePod) -> None:
    pod = make_pod("done()")
    with socket.create_server(("127.0.0.1", pod.port)):
        code, message = pod.run()
    assert code == message.exit_code == 1
    assert "Address already in use" in (message.error or "")


def test_the_folders_of_the_workspace_are_writable_for_the_group(make_pod: MakePod) -> None:
    pod = make_pod("done()")
    pod.run()
    assert (pod.workspace / pod.config.folder / "attempts" / "3").stat().st_mode & 0o777 == 0o775


def test_when_a_rank_cannot_be_started_none_is_left(make_pod: MakePod) -> None:
    pod = make_pod("(SCRATCH / f'pid-{RANK}').write_text(str(os.getpid())); wait_for('never')", processes_per_node=2)
    driver = """
    from finetune_trainer.agent.rank_processes import RankProcesses
    start = RankProcesses.start
    def fails_for_the_second(self, rank, *arguments):
        if rank == 1:
            while not list(Path(os.environ['FINETUNE_SCRATCH']).glob('pid-0')):
                time.sleep(0.01)
            raise BlockingIOError(11, 'Resource temporarily unavailable')
        start(self, rank, *arguments)
    RankProcesses.start = fails_for_the_second
    """
    (pod.folder / "sitecustomize.py").write_text(
        "import os, time\nfrom pathlib import Path\n" + textwrap.dedent(driver)
    )
    code, message = pod.run()
    assert code == message.exit_code == 1
    assert "Resource temporarily unavailable" in (message.error or "")
    assert is_gone(int((pod.scratch / "pid-0").read_text()))
