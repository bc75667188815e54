"""The commands as processes: how fast they answer, what they print and their exit codes."""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from support.clusters import RESULT, World, last_words, operated, run_of
from support.manifests import manifest

from finetune_operator.api.v1alpha1 import (
    Condition,
    EvaluationStatus,
    FactsStatus,
    FineTuneJobStatus,
    LedgerEntry,
    ProgressStatus,
    ResultStatus,
)
from finetune_operator.cli.display import LASTING, Display, show_failure, show_result
from finetune_operator.cli.exit_codes import BROKEN_PIPE, DONE, FAILED, INVALID
from finetune_operator.cli.follow import follow
from finetune_operator.cli.main import main
from finetune_operator.constants import Phase
from finetune_operator.protocol import FINETUNEJOBS

ROOT = Path(__file__).parents[3]
COMMANDS = ("run", "validate", "submit", "watch", "logs", "operator", "crd")
HELP_SECONDS = 0.3
FINETUNE = (sys.executable, "-m", "finetune_operator.cli.main")


def seconds_of(*arguments: str) -> float:
    started = time.perf_counter()
    done = subprocess.run([*FINETUNE, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: finetune")
    return time.perf_counter() - started


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_answers_at_once(command: str) -> None:
    assert min(seconds_of(*filter(None, [command, "--help"])) for _ in range(3)) < HELP_SECONDS


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert re.findall(r"^    (\w+) ", capsys.readouterr().out, re.M) == list(COMMANDS)


def test_an_unknown_option_is_refused_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "job.yaml", "--workspce", "w"])
    assert ended.value.code == INVALID
    assert "unrecognized arguments: --workspce" in capsys.readouterr().err


def test_crd_prints_the_committed_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crd"]) == DONE
    assert capsys.readouterr().out == (ROOT / "crds" / "finetunejobs.yaml").read_text()


def test_every_example_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(str(file) for file in ROOT.glob("examples/*/*.yaml"))
    assert len(files) >= 4
    assert main(["validate", *files]) == DONE
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == len(files)
    assert said.err == ""


def test_validate_speaks_of_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text((ROOT / "examples/contracts/job.yaml").read_text())
    bad.write_text("kind: [\n")
    assert main(["validate", str(bad), str(good)]) == INVALID
    said = capsys.readouterr()
    assert said.out.startswith(f"{good}: ")
    assert said.err.startswith(f"finetune: {bad}, line ")


def test_a_manifest_may_come_from_standard_input() -> None:
    text = (ROOT / "examples/contracts/job.yaml").read_text()
    done = subprocess.run([*FINETUNE, "validate", "-"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (DONE, "")
    assert done.stdout.startswith("-: ")


@pytest.mark.parametrize("command", [("crd",), ("validate", "examples/contracts/job.yaml")], ids=["long", "short"])
def test_a_reader_that_goes_away_is_no_error(command: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*FINETUNE, *command], stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    assert (done.returncode, done.stderr) == (BROKEN_PIPE, "")


# ---- clusters that cannot be reached --------------------------------------------------------------------------------

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: gone, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: me, user: {}}]
contexts: [{name: here, context: {cluster: gone, user: me}}]
current-context: here
"""
JOB = str(ROOT / "examples/contracts/job.yaml")


@pytest.mark.parametrize("command", [("submit", JOB), ("watch", "clauses"), ("logs", "clauses")], ids=lambda c: c[0])
@pytest.mark.parametrize(
    ("kubeconfig", "sentence"),
    [
        (None, r"there is no cluster to talk to \(.*config.*\); set KUBECONFIG or --context"),
        ("contexts: [", r"there is no cluster to talk to \(.*config.* is not YAML: .*\); set KUBECONFIG or --context"),
        ("kind: Config", r"there is no cluster to talk to \(.*current-context.*\); set KUBECONFIG or --context"),
        (KUBECONFIG, r"the API server was not reached: .*127\.0\.0\.1:1.*; check KUBECONFIG and --context"),
    ],
    ids=["absent", "no YAML", "empty", "nobody answers"],
)
def test_a_cluster_that_cannot_be_talked_to_is_one_sentence(
    command: tuple[str, ...],
    kubeconfig: str | None,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    outside_a_pod: None,
) -> None:
    file = tmp_path / "config"
    if kubeconfig is not None:
        file.write_text(kubeconfig)
    monkeypatch.setenv("KUBECONFIG", str(file))
    assert main(command) == INVALID
    said = capfd.readouterr()
    assert said.out == ""
    assert re.fullmatch(f"finetune: {sentence}\n", said.err), said.err


@pytest.fixture
def outside_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


# ---- following ------------------------------------------------------------------------------------------------------


async def outcome_of(end: Callable[[World], object], trains: bool = True, **changes: object) -> tuple[int, str]:
    """Return the exit code and the display for a job on two nodes whose training pods are ended by `end`."""
    shown = io.StringIO()
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.resources.nodes": 2, **changes}))
        with Display(Console(file=shown)) as display:
            following = asyncio.create_task(follow(world.cluster, "default", "clauses", display))
            if trains:
                pods = await world.pods(2)
                run = run_of(await world.until(lambda s: s.phase == Phase.STARTING))
                for pod in pods:
                    world.say(pod, run, step=3)
                await world.until(lambda s: s.progress and s.progress.step == 3)
                done = end(world)
                if asyncio.iscoroutine(done):
                    await done
            async with asyncio.timeout(10):
                code, _ = await following
    return code, shown.getvalue()


def finishing(exit_code: int, **words: object) -> Callable[[World], object]:
    async def end(world: World) -> None:
        run = run_of(await world.status())
        for pod in await world.pods(2):
            world.driver.finish(pod, exit_code, last_words(pod, run, exit_code, **words))

    return end


async def test_following_a_job_that_completes_ends_with_0() -> None:
    code, shown = await outcome_of(finishing(0))
    assert code == DONE
    assert shown.splitlines()[0] == "Pending: No pod is scheduled yet"
    assert "Training: Run 1 trains" in shown.splitlines()
    assert shown.splitlines()[-1] == "Complete"


KILLED = finishing(137, error="Rank 1 was killed by signal 9 (SIGKILL).", error_time=1.0)


async def test_following_a_job_whose_rank_was_killed_goes_on_with_its_next_attempt() -> None:
    async def killed_once(world: World) -> None:
        await KILLED(world)
        await world.succeed(await world.pods_of_attempt(2, 2))

    code, shown = await outcome_of(killed_once)
    assert code == DONE
    assert re.search(
        r"^Restarting: Attempt 2 of run 1 starts now.*; the one before ended as Infrastructure "
        r"\(exit code 137, node .+\): Rank 1 was killed by signal 9 \(SIGKILL\)\.$",
        shown,
        re.MULTILINE,
    ), shown
    assert shown.splitlines()[-1] == "Complete"


async def test_following_a_job_whose_rank_was_killed_and_that_has_no_restarts_ends_with_1() -> None:
    code, shown = await outcome_of(KILLED, **{"spec.faultTolerance.maxRestarts": 0})
    assert (code, shown.splitlines()[-1]) == (FAILED, "Failed")
    assert "Restarting" not in shown


async def test_following_a_job_that_is_suspended_says_so_and_goes_on_when_it_is_resumed() -> None:
    async def suspended_once(world: World) -> None:
        await world.edit(**{"spec.suspend": True})
        await world.until(lambda s: s.phase == Phase.SUSPENDED)
        await world.edit(**{"spec.suspend": False})
        await world.succeed(await world.pods_of_attempt(2, 2))

    code, shown = await outcome_of(suspended_once)
    assert code == DONE
    assert "Suspended: spec.suspend is true; attempt 2 of run 1 starts when it is false" in shown.splitlines()
    assert "Restarting" not in shown
    assert shown.splitlines()[-1] == "Complete"


async def test_following_a_job_whose_data_are_wrong_ends_with_2() -> None:
    code, _ = await outcome_of(finishing(76, error="dataset.uri: workspace://x is empty"))
    assert code == INVALID


async def test_following_a_job_that_is_deleted_ends_with_1() -> None:
    code, _ = await outcome_of(lambda world: world.cluster.delete(FINETUNEJOBS, "default", "clauses"))
    assert code == FAILED


async def test_following_a_job_that_the_cluster_cannot_read_ends_with_2() -> None:
    code, _ = await outcome_of(lambda world: None, trains=False, **{"spec.model.uri": "file:///models/minilm"})
    assert code == INVALID


# ---- what is displayed ----------------------------------------------------------------------------------------------


def status(phase: Phase, message: str = "", **fields: object) -> FineTuneJobStatus:
    condition = Condition(
        type="Reconciling", status="True", reason="x", message=message, last_transition_time="", observed_generation=1
    )
    return FineTuneJobStatus(phase=phase, conditions=[condition], **fields)


PROGRESS = ProgressStatus(step=3, total_steps=30, epoch=0.1, loss=0.51234, tokens_per_second=12345, eta="27s")
TRAINING = status(Phase.TRAINING, "Run 1 trains [1/2]", progress=PROGRESS)


def test_a_file_gets_a_line_for_each_change_and_for_progress_now_and_then() -> None:
    shown = io.StringIO()
    with Display(Console(file=shown, width=20)) as display:
        display.update(FineTuneJobStatus())
        for _ in range(3):
            display.update(TRAINING)
        display.update(status(Phase.COMPLETE))
    assert shown.getvalue().splitlines() == [
        "Training: Run 1 trains [1/2]",
        "Training: step 3/30  loss 0.5123  12,345 tokens/s  ETA 27s",
        "Complete",
    ]


def test_a_terminal_gets_a_bar_with_phase_step_loss_speed_and_rest() -> None:
    shown = io.StringIO()
    with Display(Console(file=shown, force_terminal=True, width=120)) as display:
        display.update(status(Phase.STARTING, "0 of 2 ranks have reported; pod [/x]"))
        display.update(TRAINING)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
    assert re.search(r"Training .*step 3/30  loss 0\.5123  12,345 tokens/s  ETA 27s", text), text


def test_notes_on_the_data_are_shown_once() -> None:
    shown = io.StringIO()
    facts = FactsStatus(training_rows=9, evaluation_rows=1, notes=["3 of 10 rows are cut [x]."])
    with Display(Console(file=shown)) as display:
        display.update(TRAINING)
        for _ in range(3):
            display.update(TRAINING.model_copy(update={"facts": facts}))
    assert shown.getvalue().splitlines().count("Note: 3 of 10 rows are cut [x].") == 1


@pytest.mark.parametrize("phase", LASTING)
def test_a_terminal_keeps_the_sentence_of_an_attempt_that_ended_and_of_a_suspension(phase: Phase) -> None:
    shown = io.StringIO()
    with Display(Console(file=shown, force_terminal=True, width=120)) as display:
        for _ in range(2):
            display.update(status(phase, "because of [this]"))
        display.update(TRAINING)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
    assert re.search(rf"{phase}: because of \[this\] *$", text, re.MULTILINE), text
    assert text.count(f"{phase}: because of [this]") == 1, text


def test_the_end_shows_metrics_before_and_after_and_the_places_of_the_models() -> None:
    shown = io.StringIO()
    result = ResultStatus(
        path=RESULT.path,
        uri="",
        digest="",
        merged_path="m/[1]",
        step=2,
        last_step=3,
        trainable_parameters=1,
        parameters=2,
    )
    evaluation = EvaluationStatus(base={"accuracy": 0.25}, final={"accuracy": 0.875, "f1": 0.5})
    complete = status(Phase.COMPLETE, evaluation=evaluation, result=result)
    show_result(Console(file=shown, width=40), complete, "/srv/a folder with a long name/")
    lines = shown.getvalue().splitlines()
    assert re.findall(r"[\w.+]+", lines[3]) == ["accuracy", "0.2500", "0.8750", "+0.6250"]
    assert re.findall(r"[\w.+]+", lines[4]) == ["f1", "0.5000"]
    assert lines[-3:] == [
        "Note: of 3 steps, the model of step 2 is kept, which evaluated best.",
        f"Model: /srv/a folder with a long name/{RESULT.path}",
        "Merged: /srv/a folder with a long name/m/[1]",
    ]


def test_a_missing_merged_copy_is_shown_with_its_reason() -> None:
    shown = io.StringIO()
    result = ResultStatus(
        path="p", uri="", digest="", merge_failure="output.merge: [full]", trainable_parameters=1, parameters=2
    )
    show_result(Console(file=shown, width=40), status(Phase.COMPLETE, result=result), "/")
    assert shown.getvalue().splitlines() == ["Note: there is no merged copy: output.merge: [full].", "Model: /p"]


def failed(failure: str, exit_code: int, message: str, log: list[str]) -> FineTuneJobStatus:
    entry = LedgerEntry(
        run=1,
        attempt=1,
        class_=failure,
        exit_code=exit_code,
        node="n1",
        message=message,
        start_time="",
        end_time="",
        log=log,
    )
    return status(Phase.FAILED, ledger=[entry])


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (
            failed("Infrastructure", 137, "Rank 1 was killed.", ["[rank 1] last words"]),
            ["  [rank 1] last words", "finetune: Infrastructure (exit code 137, node n1): Rank 1 was killed."],
        ),
        (failed("Invalid", 76, "dataset.uri: x is empty", ["noise"]), ["finetune: dataset.uri: x is empty"]),
        (FineTuneJobStatus(phase=Phase.TRAINING), ["finetune: the job was deleted"]),
    ],
    ids=["killed", "invalid", "deleted"],
)
def test_a_failure_is_shown_with_what_helps(status: FineTuneJobStatus, lines: list[str]) -> None:
    shown = io.StringIO()
    show_failure(Console(file=shown, width=20), status)
    assert shown.getvalue().splitlines() == lines
