"""Which folders are checkpoints, which of them may be deleted, and which are never trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trainer.fixtures_data import run_config

from finetune_trainer.checkpoint import files
from finetune_trainer.checkpoint.files import File, Found, Manifest, Origin, Position, Probe
from finetune_trainer.contract import World
from finetune_trainer.errors import UntrustedError

NAMES = ("state-0-0.safetensors", "state-1-0.safetensors")


def manifest_of(written: dict[str, File]) -> Manifest:
    return Manifest(
        attempt=2,
        time=1_700_000_000.5,
        position=Position(step=7, epoch=0.5, evaluated=True),
        origin=Origin(config="c", data="d", seed=17, global_batch_size=8, total_steps=20),
        world=2,
        zero_stage=2,
        micro_batch_size=4,
        code="e",
        probe=Probe(loss_sum=12.5, count=8),
        save_seconds=0.5,
        base_metrics={"loss": 1.5},
        request="",
        files=written,
    )


def make(folder: Path, step: int, attempt: int) -> Found:
    """Write a complete checkpoint with two files."""
    unfinished = folder / files.unfinished_name(step, attempt)
    unfinished.mkdir(parents=True)
    written = {name: files.write_synced(unfinished / name, name.encode() * 50) for name in NAMES}
    files.write_manifest(unfinished, manifest_of(written))
    return Found(files.publish(folder, unfinished, files.folder_name(step, attempt)), step, attempt)


def check(path: Path) -> None:
    files.check_files(path, files.read_manifest(path).files.items())


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    made = make(tmp_path, 7, 2)
    check(made.path)
    manifest = files.read_manifest(made.path)
    assert (manifest.position.step, manifest.bytes) == (7, sum(len(name) * 50 for name in NAMES))
    assert (tmp_path / files.LATEST_FILE).read_text() == "step-7-a2\n"
    assert not (tmp_path / files.unfinished_name(7, 2)).exists()


@pytest.mark.parametrize("name", [*NAMES, files.MANIFEST_FILE])
def test_every_bit_and_every_length_of_every_file_counts(tmp_path: Path, name: str) -> None:
    made = make(tmp_path, 7, 2)
    file = made.path / name
    whole = file.read_bytes()
    for place in (*range(0, len(whole), 7), len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UntrustedError, match=name):
            check(made.path)
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(UntrustedError, match=name):
            check(made.path)
    file.unlink()
    with pytest.raises(UntrustedError, match=f"{name} cannot be read"):
        check(made.path)


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"manifest": 1, "sha256": 2}', "[" * 100_000, "\x00"])
def test_a_foreign_manifest_is_a_sentence(tmp_path: Path, text: str) -> None:
    made = make(tmp_path, 7, 2)
    (made.path / files.MANIFEST_FILE).write_text(text)
    with pytest.raises(UntrustedError, match=r"manifest\.json"):
        files.read_manifest(made.path)


def test_a_manifest_of_an_unknown_field_is_not_believed(tmp_path: Path) -> None:
    made = make(tmp_path, 7, 2)
    written = json.loads((made.path / files.MANIFEST_FILE).read_text())
    written["manifest"]["step"] = 8
    (made.path / files.MANIFEST_FILE).write_text(json.dumps(written))
    with pytest.raises(UntrustedError):
        files.read_manifest(made.path)


def test_only_folders_with_a_checkpoints_name_are_found_newest_first(tmp_path: Path) -> None:
    for step, attempt in ((5, 1), (10, 1), (10, 2), (9, 3)):
        make(tmp_path, step, attempt)
    for foreign in (".step-11-a1", "step-12", "step-x-a1", "step-13-a1-old", "lost+found"):
        (tmp_path / foreign).mkdir()
    (tmp_path / "step-14-a1").write_text("a file")
    assert [(found.step, found.attempt) for found in files.found(tmp_path)] == [(10, 2), (10, 1), (9, 3), (5, 1)]
    assert files.found(tmp_path / "none") == []


def names(checkpoints: list[Found]) -> set[str]:
    return {files.folder_name(found.step, found.attempt) for found in checkpoints}


def of(*pairs: tuple[int, int]) -> list[Found]:
    return [Found(Path(files.folder_name(*pair)), *pair) for pair in pairs]


def test_the_newest_and_the_best_stay() -> None:
    there = of((1, 1), (2, 1), (3, 1), (4, 1), (5, 1))
    assert names(files.outdated(there, there[-1], keep=2, best_step=None)) == {"step-1-a1", "step-2-a1", "step-3-a1"}
    assert names(files.outdated(there, there[-1], keep=2, best_step=1)) == {"step-2-a1", "step-3-a1"}
    assert names(files.outdated(there, there[-1], keep=1, best_step=5)) == {f"step-{n}-a1" for n in (1, 2, 3, 4)}


def test_what_could_not_be_trusted_goes_first() -> None:
    """Attempt 2 resumed at step 2, because the checkpoints of steps 3 and 4 of attempt 1 could not be verified."""
    there = of((1, 1), (2, 1), (3, 1), (4, 1), (3, 2))
    assert names(files.outdated(there, there[-1], keep=3, best_step=None)) == {"step-3-a1", "step-4-a1"}


def test_a_newer_attempts_checkpoints_are_not_touched() -> None:
    there = of((1, 1), (2, 1), (3, 1), (2, 2), (9, 2))
    assert names(files.outdated(there, there[2], keep=1, best_step=None)) == {"step-1-a1", "step-2-a1"}


def test_what_earlier_attempts_left_unfinished_is_swept(tmp_path: Path) -> None:
    made = make(tmp_path, 3, 1)
    left = (".step-4-a1", ".step-5-a2", ".step-2-a1-going", ".something", ".step-6-a3")
    for name in left:
        (tmp_path / name).mkdir()
    files.sweep(tmp_path, attempt=3)
    assert {path.name for path in tmp_path.iterdir()} == {made.path.name, "LATEST", ".something", ".step-6-a3"}
    files.sweep(tmp_path / "none", attempt=3)


def test_attempts_of_one_run_share_a_recipe_and_other_runs_do_not() -> None:
    config = run_config()
    again = {"attempt": 2, "nonce": "other", "world": World(nodes=2, processes_per_node=4, device="cpu")}
    smaller = config.training.model_copy(update={"micro_batch_size": 1, "activation_checkpointing": True})
    assert files.recipe_digest(config.model_copy(update={**again, "training": smaller})) == files.recipe_digest(config)
    other = config.training.model_copy(update={"learning_rate": 0.5})
    assert files.recipe_digest(config.model_copy(update={"training": other})) != files.recipe_digest(config)


def test_a_file_that_this_node_does_not_see_is_no_checkpoint(tmp_path: Path) -> None:
    """The nodes do not share the volume."""
    written = files.write_synced(tmp_path / "state", b"12345")
    files.check_sizes(tmp_path, {"state": written})
    with pytest.raises(OSError, match="other"):
        files.check_sizes(tmp_path, {"other": written})
    (tmp_path / "state").write_bytes(b"123")
    with pytest.raises(OSError, match="has 3 bytes here, but 5 were written"):
        files.check_sizes(tmp_path, {"state": written})
