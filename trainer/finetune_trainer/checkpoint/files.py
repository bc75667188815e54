"""Checkpoints as folders: what is in one, which there are, whether one can be trusted, which may go.

    <run>/checkpoints/step-<k>-a<attempt>/     whole and never changed again, or not there
        manifest.json                          everything else in it, by name, size and sha256; and its own sha256
        state-*.safetensors
    <run>/checkpoints/.step-<k>-a<attempt>/    being written by that attempt, or left by its death
    <run>/checkpoints/LATEST                   name of the newest one, for people and tools; nothing here relies on it

A folder gets its name by one rename, after every file in it has been synced to the disk. It is trusted for what its
manifest proves, whoever wrote it. No two attempts write one path.
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
    """Of a checkpoint."""

    size: int
    sha256: str


class Probe(Message):
    """What the model answered to fixed rows, in evaluation mode; a resumed one must answer the same."""

    loss_sum: float
    count: int


class Best(Message):
    """The best evaluation so far."""

    step: int
    metric: str
    value: float
    loss: float


class Health(Message):
    """Steps that went wrong so far, and what the next ones are compared with."""

    skipped: int = 0
    skipped_in_row: int = 0
    spikes: int = 0
    recent_losses: tuple[float, ...] = ()


class Position(Message):
    """Where the training is. Rows, learning rate and randomness of the next step follow from the step alone."""

    step: int
    """Optimizer steps that are done or skipped."""
    epoch: float
    evaluated: bool
    """Whether the evaluation that is due after this step is done."""
    best: Best | None = None
    """The best evaluation whose checkpoint was written."""
    improved_to: float | None = None
    """The metric's value when it improved last by more than `minDelta`."""
    evaluations_without_improvement: int = 0
    """Evaluations since then."""
    health: Health = Health()


class Origin(Message):
    """What the state belongs to: it fits no other training."""

    config: str
    """Digest of the recipe: of run.json without what may differ from attempt to attempt."""
    data: str
    seed: int
    global_batch_size: int
    total_steps: int


class Manifest(Message):
    """Of one checkpoint."""

    attempt: int
    time: float
    position: Position
    origin: Origin
    world: int
    zero_stage: int
    micro_batch_size: int
    code: str
    """Digest of the trainer's source."""
    probe: Probe
    save_seconds: float
    """From the decision to save until everything but this manifest was written."""
    base_metrics: dict[str, float]
    """Of the model before training."""
    request: str
    """The request that it answers, or that one before it has answered."""
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
    """Of what attempts of one run have in common: where, how widely and how patiently they train is not of it."""
    fields = config.model_dump(mode="json", exclude_none=True)
    for name in ("attempt", "nonce", "world", "zero_stage", "deepspeed", "checkpoint", "patience", "merge", "metrics"):
        fields.pop(name, None)
    for name in ("micro_batch_size", "activation_checkpointing"):
        fields["training"].pop(name, None)
    for name in ("max_bad_fraction", "max_leak_fraction"):
        fields["dataset"].pop(name, None)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def code_digest() -> str:
    """Of this package's source files."""
    digest = hashlib.sha256()
    folder = Path(finetune_trainer.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def folder_name(step: int, attempt: int) -> str:
    """Of a checkpoint that is whole."""
    return f"step-{step}-a{attempt}"


def unfinished_name(step: int, attempt: int) -> str:
    """Of one that is being written."""
    return f".{folder_name(step, attempt)}"


def found(folder: Path) -> list[Found]:
    """Folders with a checkpoint's name, newest first: by step, then by attempt. Everything else is somebody else's."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except FileNotFoundError:
        return []
    matches = ((name, NAME.fullmatch(name)) for name in names)
    checkpoints = [Found(folder / name, int(match[1]), int(match[2])) for name, match in matches if match]
    return sorted(checkpoints, key=lambda checkpoint: (checkpoint.step, checkpoint.attempt), reverse=True)


def read_manifest(path: Path) -> Manifest:
    """Of the checkpoint at `path`. Raises UntrustedError."""
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
    """Into a checkpoint that is being written. Raises OSError."""
    fields = manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    write_synced(path / MANIFEST_FILE, json.dumps({"manifest": fields, "sha256": digest}, indent=1).encode())


def write_synced(path: Path, content: bytes) -> File:
    """Write a new file and wait until the disk has it. Raises OSError."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return File(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in it. Raises OSError."""
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
    """Whether this process sees what others have written. Raises OSError."""
    for name, expected in files.items():
        size = (path / name).stat().st_size
        if size != expected.size:
            raise OSError(f"{path / name} has {size} bytes here, but {expected.size} were written")


def publish(folder: Path, unfinished: Path, name: str) -> Path:
    """Give a checkpoint that is complete its name, and note it as the newest. Raises OSError."""
    sync_folder(unfinished)
    path = folder / name
    unfinished.rename(path)
    sync_folder(folder)
    write_atomically(folder / LATEST_FILE, f"{name}\n")
    return path


def remove(path: Path) -> None:
    """A checkpoint, if it is there, so that it is never seen as one while it goes; what cannot be removed stays."""
    going = path.with_name(f".{path.name}-going")
    try:
        path.rename(going)
    except OSError:
        return
    shutil.rmtree(going, ignore_errors=True)


def outdated(checkpoints: Iterable[Found], newest: Found, keep: int, best_step: int | None) -> list[Found]:
    """Those that may go, once `newest` was verified: all but the `keep` newest and the best.

    Of a step that two attempts have saved, the later attempt's counts. What an earlier attempt wrote beyond `newest` is
    what the attempt of `newest` could not trust, or it would have resumed there. A later attempt's are not ours."""
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
    """Remove what earlier attempts left unfinished, or half removed."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        match = re.fullmatch(rf"\.({NAME.pattern})(-going)?", entry.name)
        if match and int(match[3]) < attempt:
            shutil.rmtree(entry.path, ignore_errors=True)
