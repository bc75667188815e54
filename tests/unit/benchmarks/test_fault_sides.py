"""What each side does after an attempt, its checkpoints and its error reports; and pods that end together."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from fault_scoreboard import pods as pods_module
from fault_scoreboard.hugging_face import HuggingFace
from fault_scoreboard.ours import FOLDER, Ours, run_config
from fault_scoreboard.pods import Pod, gang_end
from fault_scoreboard.side import Attempt, Command, Job, Next

from finetune_trainer.contract import TerminationMessage


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path, None)


@pytest.mark.parametrize(
    ("codes", "following"),
    [
        ([75, 75], Next(True, 4)),
        ([137, 1], Next(True, 4)),
        ([79, 79], Next(True, 4)),
        ([-9, -9], Next(True, 4)),
        ([78, 1], Next(True, 2)),
        ([77, 77], Next(False, 4)),
        ([1, 76], Next(False, 4)),
        ([80, 0], Next(False, 4)),
        ([82, 82], Next(False, 4)),
    ],
)
def test_our_next_attempt_is_what_the_operator_would_start(job: Job, codes: list[int], following: Next) -> None:
    assert Ours().after(job, Attempt(1, micro_batch=4), codes) == following


def test_the_other_side_starts_again_whatever_happened(job: Job) -> None:
    assert HuggingFace().after(job, Attempt(1, micro_batch=4), [76, 1]) == Next(True, 4)


def test_each_attempt_has_a_configuration_of_its_own_but_one_folder(job: Job) -> None:
    first, second = (run_config(job, Attempt(number, world=3 - number)) for number in (1, 2))
    assert first.nonce != second.nonce
    assert (first.folder, first.world.size, second.world.size) == (second.folder, 2, 1)
    assert first.lora is not None
    assert first.lora.dropout > 0
    without = run_config(Job(job.folder, None, has_dropout=False), Attempt(1)).lora
    assert without is not None
    assert without.dropout == 0


def make(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()


def test_only_whole_checkpoints_count_and_the_newest_is_the_last(job: Job) -> None:
    ours, theirs = job.workspace / FOLDER / "checkpoints", job.workspace / "output"
    make(*(ours / name / "manifest.json" for name in ("step-10-a1", "step-9-a1", "step-10-a2", ".step-11-a2")))
    make(*(theirs / name / "trainer_state.json" for name in ("checkpoint-10", "checkpoint-9")))
    make(theirs / "checkpoint-20" / "adapter_model.safetensors")
    assert [path.name for path in Ours().checkpoints(job)] == ["step-9-a1", "step-10-a1", "step-10-a2"]
    assert [path.name for path in HuggingFace().checkpoints(job)] == ["checkpoint-9", "checkpoint-10"]


def test_our_last_words_are_those_of_the_first_failure(job: Job) -> None:
    messages = [(1, "symptom", None), (137, "cause", 5.0), (1, "later", 6.0), (0, None, None)]
    for index, (code, error, error_time) in enumerate(messages):
        message = TerminationMessage(
            pod_uid="u", index=index, attempt=1, nonce="n", exit_code=code, error=error, error_time=error_time
        )
        pod = job.folder / "attempt-1" / f"pod-{index}"
        pod.mkdir(parents=True)
        (pod / "termination-log").write_text(message.to_json())
    assert Ours().last_words(job, Attempt(1), []) == "137: cause"


def test_their_last_words_are_the_first_error_of_each_pod(job: Job) -> None:
    logs = [
        "[rank0]: RuntimeError: closed\n[rank0]: ValueError: later\ntorch.x.errors.ChildFailedError: \n",
        "torch.x.errors.ChildFailedError: \nE1124 failed (exitcode: -9) local_rank: 0 (pid: 7)\n",
    ]
    for index, text in enumerate(logs):
        job.log(1, index).write_text(text)
    words = HuggingFace().last_words(job, Attempt(1), [])
    assert words == "pod 0: RuntimeError: closed; pod 1: its rank ended with -9"


PodOf = Callable[..., Pod]


@pytest.fixture
def pod_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PodOf]:
    """Return a function that starts a pod with Python code and waits until it has written its first line."""
    monkeypatch.setattr(pods_module, "GRACE_SECONDS", 0.3)
    made: list[Pod] = []

    def start(code: str) -> Pod:
        log = tmp_path / f"{len(made)}.log"
        pod = Pod(Command([sys.executable, "-u", "-c", f"import signal, sys, time\n{code}"], {}), log)
        made.append(pod)
        wait_until(lambda: "begun" in log.read_text())
        return pod

    yield start
    for pod in made:
        pod.kill()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def end_of(gang: Sequence[Pod]) -> list[int]:
    wait_until(lambda: gang_end(gang) is not None)
    return [pod.wait() for pod in gang]


def test_a_pod_that_fails_takes_the_others_with_it(pod_of: PodOf) -> None:
    gang = [pod_of("print('begun'); time.sleep(60)"), pod_of("print('begun'); sys.exit(3)")]
    assert end_of(gang) == [-signal.SIGTERM, 3]


def test_a_pod_that_ends_well_leaves_the_others_alone(pod_of: PodOf) -> None:
    gang = [pod_of("print('begun'); time.sleep(0.5); sys.exit(0)"), pod_of("print('begun')")]
    assert end_of(gang) == [0, 0]


def test_a_pod_that_does_not_stop_is_killed_after_its_grace_period(pod_of: PodOf) -> None:
    stubborn = pod_of("signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun'); time.sleep(60)")
    stubborn.terminate()
    assert end_of([stubborn]) == [-signal.SIGKILL]
