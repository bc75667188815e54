"""A rank process and the files that it writes for the agent. torchrun starts it here as an agent does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from trainer import tiny

from finetune_trainer import contract, rank
from finetune_trainer.contract import ExitCode, RankExit, RankStatus, RunConfig
from finetune_trainer.training.metrics_files import read_metrics


def start(config: RunConfig, folder: Path, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the environment variables that an agent sets."""
    paths = tiny.paths_in(folder)
    run_file = folder / "run.json"
    run_file.write_text(config.to_json())
    environment = {
        **os.environ,
        contract.ENV_RUN_CONFIG: str(run_file),
        contract.ENV_WORKSPACE: str(paths.workspace),
        contract.ENV_CLAIMS: str(paths.claims),
        contract.ENV_SCRATCH: str(paths.scratch),
        **variables,
    }
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=240)


def ends(folder: Path) -> list[RankExit]:
    """Return the exit files of the ranks, sorted by rank."""
    files = sorted((folder / "scratch").glob("rank-*.exit.json"))
    return [RankExit.model_validate_json(file.read_text()) for file in files]


def test_two_ranks_train_attest_and_leave_their_results(tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "model", tiny.SEQUENCE, tiny.bert())
    rows = tiny.make_rows(tmp_path / "train", tiny.SEQUENCE, 40)
    config = tiny.run_config(tiny.SEQUENCE, model, rows, world=2, stage=2, epochs=2, learning_rate=1e-2)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "finetune_trainer.rank"]
    done = start(config, tmp_path, torchrun)
    assert done.returncode == 0, done.stderr
    first, second = ends(tmp_path)
    assert first.exit_code == second.exit_code == ExitCode.DONE
    assert first.config_digest == second.config_digest == config.digest
    assert first.world == second.world == 2
    assert second.result is None
    assert first.result is not None
    assert first.result.step == first.step == second.step
    output = tmp_path / "workspace" / first.result.path
    assert {file.name for file in output.iterdir()} >= {"config.json", "model.safetensors", "README.md"}
    status = RankStatus.model_validate_json((tmp_path / "scratch" / contract.rank_status_file(1)).read_text())
    assert (status.rank, status.world, status.backend) == (1, 2, "gloo")
    assert (tmp_path / "scratch" / contract.rank_imported_file(1)).exists()
    records = read_metrics(tmp_path / "workspace" / config.folder)
    assert [record["split"] for record in records if "split" in record] == ["base", "epoch", "epoch", "final"]
    last_epoch, final = [record["metrics"] for record in records if "split" in record][-2:]
    assert final == last_epoch, "the saved files do not measure as the trained model"
    assert first.result.metrics["loss"] < first.result.base_metrics["loss"]


def test_a_world_of_another_size_is_a_mismatch(tmp_path: Path) -> None:
    config = tiny.run_config(tiny.SEQUENCE, tmp_path / "model", tmp_path / "rows.jsonl", world=2)
    done = start(config, tmp_path, ["-m", "finetune_trainer.rank"], RANK="0", WORLD_SIZE="3", LOCAL_RANK="0")
    assert done.returncode == ExitCode.MISMATCH
    (end,) = ends(tmp_path)
    assert end.exit_code == ExitCode.MISMATCH
    assert end.error == "rank 0 is one of 3 processes, but the run was planned for 2"
    assert "Traceback" not in done.stderr
    assert (tmp_path / "scratch" / contract.rank_started_file(0)).exists()
    assert not (tmp_path / "scratch" / contract.rank_imported_file(0)).exists()


def test_a_rank_says_that_it_has_started_before_it_imports_torch(tmp_path: Path) -> None:
    config = tiny.run_config(tiny.SEQUENCE, tmp_path / "model", tmp_path / "rows.jsonl")
    without_torch = (
        "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('finetune_trainer.rank')['main']()"
    )
    done = start(config, tmp_path, ["-c", without_torch], RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    assert "import of torch halted" in done.stderr
    assert (tmp_path / "scratch" / contract.rank_started_file(0)).exists()


def test_a_name_that_is_no_unicode_does_not_cost_the_sentence(tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "model", tiny.SEQUENCE, tiny.bert())
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / os.fsdecode(b"caf\xe9.jsonl")).write_text("{")
    config = tiny.run_config(tiny.SEQUENCE, model, rows)
    one = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "finetune_trainer.rank"]
    start(config, tmp_path, one)
    (end,) = ends(tmp_path)
    assert end.exit_code == ExitCode.INVALID
    assert end.error is not None
    assert "caf\\udce9.jsonl line 1 is not JSON" in end.error


@pytest.mark.parametrize(
    ("error", "is_noticed"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.7]:17585. GLHF!"), True),
        (RuntimeError("Read error [10.0.0.7]:39103: Connection reset by peer"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("Broken pipe"), False),
    ],
)
def test_what_a_rank_notices_of_anothers_end_is_no_cause(error: Exception, is_noticed: bool) -> None:
    left = rank._failure(error)
    assert (left["error_time"] is None) == is_noticed
    assert ("another rank is gone" in str(left["error"])) == is_noticed
