"""Tests of `finetune run` as a separate process: from the manifest to the model, and every way to end early."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.manifests import TINY_CLASSIFIER, changed, manifest
from trainer import tiny

MARK = "FINETUNE_TEST_MARK"
PROC = Path("/proc")
SECONDS = 200
pytestmark = [
    pytest.mark.timeout(2 * SECONDS),
    pytest.mark.skipif(not PROC.exists(), reason="finds processes by /proc; run it on Linux"),
]

ONE_RANK = manifest(
    **{
        "metadata": {"name": "tiny"},
        **TINY_CLASSIFIER,
        "spec.training": {"epochs": 2, "globalBatchSize": 8, "sequenceLength": 32},
    }
)
TWO_NODES = changed(ONE_RANK, {"spec.resources.nodes": 2, "spec.deepspeed": {"zeroStage": 2}})
WITHOUT_END = {"spec.training": {"maxSteps": 1_000_000, "globalBatchSize": 8, "sequenceLength": 32}}


class Run:
    """A `finetune run` process; it and all its descendants have a mark in their environment."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self._mark = uuid.uuid4().hex
        (folder / "job.yaml").write_text(json.dumps(job))
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        command = ["run", "job.yaml", "--workspace", "w"]
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator.cli.main", *command],
                cwd=folder,
                stdout=out,
                stderr=err,
                env={**os.environ, MARK: self._mark, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                start_new_session=True,
            )

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def until(self, what: Callable[[], Any]) -> None:
        """Wait until `what` is true, while the run continues."""
        deadline = time.monotonic() + SECONDS
        while not what():
            assert self.process.poll() is None, self.stdout + self.stderr
            assert time.monotonic() < deadline, self.stdout + self.stderr
            time.sleep(0.02)

    def end(self, seconds: float = SECONDS) -> int:
        """Wait for the end and return the exit code; no process may be left, and no traceback may be printed."""
        code = self.process.wait(seconds)
        assert self.processes() == []
        assert "Traceback" not in self.stdout + self.stderr
        return code

    def processes(self, module: str = "") -> list[int]:
        """Return the IDs of all processes with the mark and with `module` in their command line."""
        found = []
        for folder in PROC.glob("[0-9]*"):
            try:
                marked = f"{MARK}={self._mark}".encode() in (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes().decode()
            except OSError:
                continue
            # Both are empty for a zombie.
            if marked and module in command:
                found.append(int(folder.name))
        return found

    def ranks(self) -> list[int]:
        """Return the processes that train."""
        return self.processes("finetune_trainer.rank")

    def kill(self) -> None:
        """Kill the run at the end of a failed test; its pods end with it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def model_and_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny.save_model(folder / "models" / "bert", tiny.SEQUENCE, tiny.bert())
    tiny.labelled_texts(folder / "data" / "rows.jsonl", 48)
    return folder


@pytest.fixture
def start(model_and_rows: Path, tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], Run]]:
    """Return a function that starts a run in a folder with a workspace `w`."""
    (tmp_path / "w").mkdir()
    for name in ("models", "data"):
        (tmp_path / "w" / name).symlink_to(model_and_rows / name)
    runs = []

    def started(job: dict[str, Any]) -> Run:
        runs.append(Run(tmp_path, job))
        return runs[-1]

    yield started
    for run in runs:
        run.kill()


def test_a_run_over_two_nodes_ends_with_metrics_and_a_model_that_loads(
    start: Callable[[dict[str, Any]], Run], tmp_path: Path
) -> None:
    run = start(changed(TWO_NODES, {"spec.method": {"type": "LoRA", "rank": 4}, "spec.output": {"merge": True}}))
    assert run.end() == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert re.findall(r"[a-z0-9]+", run.stdout[run.stdout.index("metric") :])[:4] == [
        "metric",
        "before",
        "after",
        "change",
    ]
    for name in ("accuracy", "f1", "loss"):
        assert re.search(rf"{name}\W+\d\.\d{{4}}\W+\d\.\d{{4}}\W+[+-]\d\.\d{{4}}", run.stdout), run.stdout
    phases = [line.partition(":")[0] for line in run.stdout.splitlines() if re.match(r"[A-Z][a-z]+(:|$)", line)]
    order = ["Pending", "Starting", "Training", "Exporting", "Complete", "Model", "Merged"]
    assert sorted(phases, key=order.index) == phases

    model, merged = (Path(re.search(rf"^{name}: (.+)$", run.stdout, re.M)[1]) for name in ("Model", "Merged"))  # type: ignore[index]
    assert tmp_path in model.parents
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification as Auto

    adapted = PeftModel.from_pretrained(Auto.from_pretrained(model.parent / "start"), model)
    assert adapted.config.id2label == Auto.from_pretrained(merged).config.id2label == dict(enumerate(tiny.LABELS))


def test_ctrl_c_during_training_stops_all_processes(start: Callable[[dict[str, Any]], Run]) -> None:
    run = start(changed(TWO_NODES, WITHOUT_END))
    run.until(lambda: "Training: step" in run.stdout)
    run.process.send_signal(signal.SIGINT)
    assert run.end(25) == 130
    assert run.stdout.splitlines()[-1].startswith("Stopping")
    assert run.stderr == ""


def test_ctrl_c_while_ranks_load_stops_all_processes(start: Callable[[dict[str, Any]], Run]) -> None:
    run = start(changed(TWO_NODES, WITHOUT_END))
    run.until(lambda: len(run.ranks()) >= 1)
    asked = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert run.end(25) == 130
    assert time.monotonic() - asked < 15, "ranks that load have nothing to save, so nothing is waited for"
    assert run.stderr == ""


def test_ctrl_c_twice_waits_for_nothing(start: Callable[[dict[str, Any]], Run]) -> None:
    run = start(changed(ONE_RANK, WITHOUT_END))
    run.until(lambda: "Training: step" in run.stdout)
    for rank in run.ranks():
        os.kill(rank, signal.SIGSTOP)  # so that it cannot stop by itself
    run.process.send_signal(signal.SIGINT)
    run.until(lambda: "Stopping" in run.stdout)
    run.process.send_signal(signal.SIGINT)
    assert run.end(15) == 130


def test_a_job_whose_data_are_wrong_ends_with_2_and_one_sentence(start: Callable[[dict[str, Any]], Run]) -> None:
    run = start(changed(TWO_NODES, {"spec.dataset.columns": {"text": "text", "label": "class"}}))
    assert run.end() == 2
    assert run.stderr == (
        "finetune: dataset.columns.label: workspace://data/rows.jsonl has no column 'class'; "
        "its columns are label, text\n"
    )


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ({"initContainers": [{"name": "fetch", "image": "fetch"}]}, "a local run has no podTemplate.initContainers"),
        (
            {"env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}]},
            'secret "keys" not found',
        ),
        (
            {"volumes": [{"name": "more", "persistentVolumeClaim": {"claimName": "more"}}]},
            'persistentvolumeclaim "more" not found',
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_pod_template_that_this_machine_cannot_serve_ends_with_2(
    template: dict[str, Any], sentence: str, start: Callable[[dict[str, Any]], Run]
) -> None:
    run = start(changed(ONE_RANK, {"spec.podTemplate": template}))
    assert run.end() == 2
    assert run.stderr == f"finetune: spec.podTemplate: {sentence}; remove what needs it for 'finetune run'\n"


KILLED = r"Infrastructure \(exit code 137, node [\w.-]+\): Rank [01] was killed by signal 9 \(SIGKILL\)"


def test_a_rank_that_is_killed_is_told_and_the_next_attempt_completes(start: Callable[[dict[str, Any]], Run]) -> None:
    # The number of steps suffices to kill the run in the middle, and is small enough to finish.
    run = start(changed(TWO_NODES, {"spec.training": {"maxSteps": 60, "globalBatchSize": 8, "sequenceLength": 32}}))
    run.until(lambda: "Training: Run 1 trains" in run.stdout)
    os.kill(run.ranks()[-1], signal.SIGKILL)
    assert run.end() == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert re.findall(
        rf"^Restarting: (Attempt 2 of run 1 starts now).*; the one before ended as {KILLED}", run.stdout, re.M
    )
    after = run.stdout.partition("\nRestarting: ")[2]
    assert re.search(r"^Training: Run 1 trains$.*^Complete$", after, re.M | re.S), run.stdout
    assert "Restarting" not in after


def test_a_rank_that_is_killed_ends_a_run_without_restarts_with_1_class_and_exit_code(
    start: Callable[[dict[str, Any]], Run],
) -> None:
    run = start(changed(TWO_NODES, {**WITHOUT_END, "spec.faultTolerance": {"maxRestarts": 0}}))
    run.until(lambda: "Training: step" in run.stdout)
    os.kill(run.ranks()[-1], signal.SIGKILL)
    assert run.end() == 1
    assert "Restarting" not in run.stdout
    why = r"; faultTolerance\.maxRestarts is 0 in 60 minutes"
    assert re.search(rf"^finetune: {KILLED}{why}$", run.stderr, re.M), run.stderr


def test_a_rank_that_hangs_in_its_start_ends_the_run_with_the_line_at_which_it_hangs(
    start: Callable[[dict[str, Any]], Run], tmp_path: Path
) -> None:
    hook = tmp_path / "hook" / "sitecustomize.py"
    hook.parent.mkdir()
    hook.write_text(HANGS_IN_A_RANK)
    environment = [{"name": "PYTHONPATH", "value": str(hook.parent)}]
    once = {"spec.podTemplate.env": environment, "spec.faultTolerance": {"maxRestarts": 0}}
    run = start(changed(ONE_RANK, once))
    assert run.end() == 1
    began = r"^finetune: Hung \(exit code 79, node [\w.-]+\): Rank 0 did not begin to run the trainer's code within 2 s"
    assert re.search(rf"{began}.*; Python was at {re.escape(str(hook))}, line 5 in <module>", run.stderr, re.M), (
        run.stderr
    )


HANGS_IN_A_RANK = """\
import sys, time
if sys.orig_argv[-1] == "finetune_trainer.agent":
    from finetune_trainer.agent import start_watch; start_watch.START_SECONDS = 2.0
if sys.orig_argv[-1] == "finetune_trainer.rank":
    time.sleep(600)
"""
