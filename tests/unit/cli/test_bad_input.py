"""Mistakes of users and the messages for them: field, value, remedy; exit code 2, no traceback.

Each case takes the shortest way to its message: the manifest alone, the checks of `finetune run` before anything
starts, rank 0's preparation (in this process), or a whole `finetune run`.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from support.bad_input import BASE, THE_DATA, THE_MANIFEST, THE_MODEL, THE_WHOLE, THIS_MACHINE, Case
from support.clusters import NOW
from support.manifests import changed
from trainer import tiny

from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import FineTuneJobStatus, LedgerEntry
from finetune_operator.cli.display import show_failure
from finetune_operator.cli.follow import exit_code
from finetune_operator.cli.main import main
from finetune_operator.constants import Phase
from finetune_operator.core.run.resolve import run_config
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_trainer.contract import class_of
from finetune_trainer.errors import TrainingError
from finetune_trainer.pod.paths import Paths

LOCAL = Settings(image="local", local=True)


@dataclass(frozen=True)
class Outcome:
    """The exit code and the output that the user sees."""

    code: int
    stdout: str
    stderr: str


def in_this_process(folder: Path, case: Case, capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Run the command in this process."""
    code = main(case.command)
    said = capsys.readouterr()
    return Outcome(code, said.out, said.err)


def by_rank_zero(folder: Path, case: Case, capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Return what `finetune run` shows of an error that rank 0 finds in data or model."""
    from finetune_trainer.model.prepare import prepare

    job = parse(json.loads(Path("job.yaml").read_text()))
    (folder / "scratch").mkdir()
    paths = Paths(workspace=folder / "w", claims=folder / "claims", scratch=folder / "scratch")
    with pytest.raises(TrainingError) as raised:
        prepare(run_config(job, next_run(job, 1, LOCAL, "nonce", NOW), LOCAL), paths)
    failure = class_of(raised.value.exit_code)
    entry = LedgerEntry(run=1, attempt=1, class_=failure, message=str(raised.value), start_time="", end_time="")
    status = FineTuneJobStatus(phase=Phase.FAILED, ledger=[entry])
    shown = io.StringIO()
    show_failure(Console(file=shown), status)
    return Outcome(exit_code(status) or 0, "", shown.getvalue())


def in_a_process(folder: Path, case: Case, capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Run the command as a user does, in a process. Its stdout shows progress and is not compared with the message."""
    command = [sys.executable, "-m", "finetune_operator.cli.main", *case.command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert "Traceback" not in done.stdout
    assert done.stdout.splitlines()[-1] == "Failed"
    return Outcome(done.returncode, "", done.stderr)


CASES = [
    *((case, in_this_process) for case in (*THE_MANIFEST, *THIS_MACHINE)),
    *((case, by_rank_zero) for case in (*THE_DATA, *THE_MODEL)),
    *((case, in_a_process) for case in THE_WHOLE),
]


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a workspace with which every case would train if it had no mistake."""
    folder = tmp_path_factory.mktemp("right")
    tiny.save_model(folder / "models" / "bert", tiny.SEQUENCE, tiny.bert())
    tiny.save_model(folder / "models" / "gpt2", tiny.CAUSAL_LM, tiny.gpt2())
    tiny.labelled_texts(folder / "data" / "rows.jsonl", 40)
    return folder


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("case", "way"), CASES, ids=[case.name for case, _ in CASES])
def test_what_is_wrong_is_said_in_one_sentence_with_exit_code_2(
    case: Case,
    way: Callable[[Path, Case, pytest.CaptureFixture[str]], Outcome],
    right: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    copied(right, tmp_path / "w")
    text = json.dumps(changed(BASE, case.changes)) if case.text is None else case.text
    Path("job.yaml").write_bytes(text.encode(errors="surrogateescape"))
    case.make(tmp_path / "w")
    capsys.readouterr()

    outcome = way(tmp_path, case, capsys)

    assert outcome.code == 2
    assert outcome.stdout == ""
    expected = f"finetune: {case.sentence}\n".replace("TMP", str(tmp_path))
    if outcome.stderr != expected:
        assert re.fullmatch(expected, outcome.stderr), f"said:   {outcome.stderr}wanted: {expected}"
    if way is by_rank_zero:
        assert str(tmp_path) not in outcome.stderr, "the path is not one that the user wrote"


def copied(folder: Path, to: Path) -> None:
    """Copy a folder. Hard links would not do, because the cases change files."""
    subprocess.run(["cp", "-r", folder, to], check=True)
