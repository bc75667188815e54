"""Checkpoints as folders: their content, and which of them exist, can be trusted and may be removed.

    <run>/checkpoints/step-<k>-a<attempt>/     complete and never changed again, or absent
        manifest.json                          name, size and sha256 of all other files, and its own sha256
        state-*.safetensors
    <run>/checkpoints/.step-<k>-a<attempt>/    being written by that attempt, or left behind when it died
    <run>/checkpoints/LATEST                   name of the newest one, for people and tools; nothing here reads it

A folder gets its name by one rename, after every file in it has been synced to the disk. Its manifest alone decides
whether it is trusted, whichever attempt wrote it. No two attempts write to the same path.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

import finetune_trainer
from finetune_trainer.contract import Message, RunConfig
from finetune_trainer.errors import UntrustedError
from finetune_trainer.pod.scratch import write_atomically

CHECKPOINTS_FOLDER = "checkpoints"
MANIFEST_FILE = "manifest.json"
LATEST_FILE = "LATEST"
NAME = re.compile(r"step-(\d+)-a(\d+)")
CHUNK_BYTES = 1 << 22


class File(Message):
    """The size and the digest of a file in a checkpoint."""

    size: int
    sha256: str


class Probe(Message):
    """The model's answer to fixed rows in evaluation mode. A resumed model must give the same."""

    loss_sum: float
    count: int


class Best(Message):
    """The best evaluation so far."""

    step: int
    metric: str
    value: float
    loss: float


class Health(Message):
    """The steps that went wrong so far, and the losses with which the next steps are compared."""

    skipped: int = 0
    skipped_in_row: int = 0
    spikes: int = 0
    recent_losses: tuple[float, ...] = ()


class Position(Message):
    """The position of the training, from whose step the next step's rows, learning rate and randomness follow."""

    step: int
    """The number of optimizer steps that are done or skipped."""
    epoch: float
    evaluated: bool
    """Whether the evaluation that is due after this step is done."""
    best: Best | None = None
    """The best evaluation whose checkpoint was written."""
    improved_to: float | None = None
    """The metric's value when it last improved by more than `minDelta`."""
    evaluations_without_improvement: int = 0
    """The number of evaluations since then."""
    health: Health = Health()


class Origin(Message):
    """The training to which a state belongs; the state fits no other."""

    config: str
    """The digest of the recipe: of run.json without the fields that may differ between attempts."""
    data: str
    seed: int
    global_batch_size: int
    total_steps: int


class Manifest(Message):
    """The manifest of one checkpoint."""

    attempt: int
    time: float
    position: Position
    origin: Origin
    world: int
    zero_stage: int
    micro_batch_size: int
    code: str
    """The digest of the trainer's source."""
    probe: Probe
    save_seconds: float
    """Seconds from the decision to save until everything but this manifest was written."""
    base_metrics: dict[str, float]
    """The metrics of the model before training."""
    request: str
    """The newest request that this checkpoint or an earlier one has answered."""
    files: dict[str, File]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files.values())


@dataclass(frozen=True)
class Found:
    """A folder with a checkpoint's name."""

    path: Path
    step: int
    attempt: int


def recipe_digest(config: RunConfig) -> str:
    """Return the digest of the fields that all attempts of a run have in common.

    The fields that determine where, with how many ranks and how patiently an attempt trains are left out.
    """
    fields = config.model_dump(mode="json", exclude_none=True)
    for name in ("attempt", "nonce", "world", "zero_stage", "deepspeed", "checkpoint", "patience", "merge", "metrics"):
        fields.pop(name, None)
    for name in ("micro_batch_size", "activation_checkpointing"):
        fields["training"].pop(name, None)
    for name in ("max_bad_fraction", "max_leak_fraction"):
        fields["dataset"].pop(name, None)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def code_digest() -> str:
    """Return the digest of this package's source files."""
    digest = hashlib.sha256()
    folder = Path(finetune_trainer.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def folder_name(step: int, attempt: int) -> str:
    """Return the folder name of a complete checkpoint."""
    return f"step-{step}-a{attempt}"


def unfinished_name(step: int, attempt: int) -> str:
    """Return the folder name of a checkpoint that is being written."""
    return f".{folder_name(step, attempt)}"


def found(folder: Path) -> list[Found]:
    """Return the folders with a checkpoint's name, newest first: by step, then by attempt. Other files are ignored."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except FileNotFoundError:
        return []
    matches = ((name, NAME.fullmatch(name)) for name in names)
    checkpoints = [Found(folder / name, int(match[1]), int(match[2])) for name, match in matches if match]
    return sorted(checkpoints, key=lambda checkpoint: (checkpoint.step, checkpoint.attempt), reverse=True)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the checkpoint at `path`. Raises UntrustedError."""
    file = path / MANIFEST_FILE
    try:
        written = json.loads(file.read_bytes())
        text = json.dumps(written["manifest"], sort_keys=True)
        if hashlib.sha256(text.encode()).hexdigest() != written["sha256"]:
            raise UntrustedError(f"{file} was changed after it was written")
        return Manifest.model_validate(written["manifest"])
    except OSError as error:
        raise UntrustedError(f"{file} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
        raise UntrustedError(f"{file} is not a manifest") from None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest into a checkpoint that is being written. Raises OSError."""
    fields = manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    write_synced(path / MANIFEST_FILE, json.dumps({"manifest": fields, "sha256": digest}, indent=1).encode())


def write_synced(path: Path, content: bytes) -> File:
    """Write a new file and wait until it is on the disk. Raises OSError."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return File(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def sync_folder(folder: Path) -> None:
    """Wait until the names of a folder's files are on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_files(path: Path, files: Iterable[tuple[str, File]]) -> None:
    """Compare files of a checkpoint with its manifest, byte by byte. Raises UntrustedError."""
    for name, expected in files:
        file = path / name
        digest, size = hashlib.sha256(), 0
        try:
            with file.open("rb") as opened:
                while chunk := opened.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
        except OSError as error:
            raise UntrustedError(f"{file} cannot be read ({error.strerror})") from None
        if size != expected.size:
            raise UntrustedError(f"{file} has {size} bytes instead of {expected.size}")
        if digest.hexdigest() != expected.sha256:
            raise UntrustedError(f"{file} was changed after it was written")


def check_sizes(path: Path, files: Mapping[str, File]) -> None:
    """Check that this process sees other ranks' files in their full size. Raises OSError."""
    for name, expected in files.items():
        size = (path / name).stat().st_size
        if size != expected.size:
            raise OSError(f"{path / name} has {size} bytes here, but {expected.size} were written")


def publish(folder: Path, unfinished: Path, name: str) -> Path:
    """Give a complete checkpoint its name, and record it as the newest. Raises OSError."""
    sync_folder(unfinished)
    path = folder / name
    unfinished.rename(path)
    sync_folder(folder)
    write_atomically(folder / LATEST_FILE, f"{name}\n")
    return path


def remove(path: Path) -> None:
    """Remove a checkpoint if it exists. Files that cannot be removed stay.

    It is renamed first, so that it never counts as a checkpoint while it is being removed.
    """
    going = path.with_name(f".{path.name}-going")
    try:
        path.rename(going)
    except OSError:
        return
    shutil.rmtree(going, ignore_errors=True)


def outdated(checkpoints: Iterable[Found], newest: Found, keep: int, best_step: int | None) -> list[Found]:
    """Return the checkpoints that may be removed once `newest` is verified: all but the `keep` newest and the best.

    If two attempts have saved the same step, the later attempt's checkpoint counts. The checkpoints that earlier
    attempts wrote beyond `newest` can be removed: the attempt of `newest` could not trust them, or it would have
    resumed from them. The checkpoints of later attempts are not touched.
    """
    ours = [checkpoint for checkpoint in checkpoints if checkpoint.attempt <= newest.attempt]
    last: dict[int, Found] = {}
    for checkpoint in sorted(ours, key=lambda checkpoint: checkpoint.attempt):
        if checkpoint.step <= newest.step:
            last[checkpoint.step] = checkpoint
    staying = {last[step] for step in sorted(last, reverse=True)[:keep]}
    if best_step in last:
        staying.add(last[best_step])
    return [checkpoint for checkpoint in ours if checkpoint not in staying]


def sweep(folder: Path, attempt: int) -> None:
    """Remove what earlier attempts left unfinished or only partly removed."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        match = re.fullmatch(rf"\.({NAME.pattern})(-going)?", entry.name)
        if match and int(match[3]) < attempt:
            shutil.rmtree(entry.path, ignore_errors=True)
