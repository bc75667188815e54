"""Saves and resumes the state of a training, which all ranks do together.

Every rank writes its part of the state; rank 0 adds the manifest and publishes the folder. A failure of one rank is
reported to all ranks through the rendezvous store, so that none waits for it: a checkpoint that cannot be written is
reported, and the training continues. A resumed training is verified by the probe: the model must answer as it did when
it was saved.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from finetune_trainer.checkpoint import engine_state, files
from finetune_trainer.checkpoint.files import File, Found, Manifest, Origin, Position, Probe
from finetune_trainer.checkpoint.probe import PROBE_TOLERANCE, differs, probe
from finetune_trainer.contract import CheckpointReport, RunConfig
from finetune_trainer.errors import NoCheckpointError, UntrustedError
from finetune_trainer.model.prepare import Prepared
from finetune_trainer.pod.paths import Paths
from finetune_trainer.ranks.distributed import Ranks, persistent_buffers

ONE_FILE_ELEMENTS = 100_000_000
"""The number of trained parameters (1.2 GB) up to which rank 0 writes all of them; above it, every rank writes its
share."""
FILE_BYTES = 512 * 1024**2
"""The size that a rank collects in main memory before it writes a file."""


class Checkpoints:
    """The checkpoints that one attempt writes and resumes from."""

    def __init__(self, config: RunConfig, paths: Paths, prepared: Prepared, ranks: Ranks, total_steps: int) -> None:
        self._config = config
        self._prepared = prepared
        self._ranks = ranks
        self._folder = paths.run(config) / files.CHECKPOINTS_FOLDER
        self._workspace = paths.workspace
        self._code = files.code_digest()
        self._origin = Origin(
            config=files.recipe_digest(config),
            data=prepared.digest,
            seed=config.training.seed,
            global_batch_size=config.training.global_batch_size,
            total_steps=total_steps,
        )
        self._saved: Position | None = None

    # ---- saving -----------------------------------------------------------------------------------------------------

    def save(
        self, engine: Any, position: Position, base_metrics: dict[str, float], request: str
    ) -> CheckpointReport | str:
        """Write and verify a checkpoint, then remove outdated ones. All ranks call this.

        Returns the new checkpoint, or a sentence that names the path and explains why there is none; the older
        checkpoints are then kept.
        """
        began = time.monotonic()
        name = files.folder_name(position.step, self._config.attempt)
        unfinished = self._folder / files.unfinished_name(position.step, self._config.attempt)
        measured = probe(engine, self._prepared, self._config, self._ranks)
        if measured is None:
            return f"{self._told(self._folder / name)} was not written: the model's loss is not finite"
        _, failure = self._ranks.outcomes(lambda: self._make_room(unfinished))
        if failure is None:
            written = self._write_share(engine, unfinished)
            parts, failure = self._ranks.outcomes(lambda: _finished(written))
        if failure is None:
            manifest = Manifest(
                attempt=self._config.attempt,
                time=time.time(),
                position=position,
                origin=self._origin,
                world=self._ranks.world,
                zero_stage=self._config.zero_stage,
                micro_batch_size=self._config.training.micro_batch_size,
                code=self._code,
                probe=measured,
                save_seconds=time.monotonic() - began,
                base_metrics=base_metrics,
                request=request,
                files={name: File(**file) for part in parts for name, file in part.items()},
            )
            _, failure = self._ranks.outcomes(lambda: self._publish(unfinished, name, manifest))
        if failure is None:
            _, failure = self._ranks.outcomes(lambda: self._check_share(self._folder / name, manifest))
        if failure is not None:
            if self._ranks.rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)
                files.remove(self._folder / name)
            return f"{self._told(self._folder / name)} could not be written: {failure}"
        if self._ranks.rank == 0:
            self._let_go(Found(self._folder / name, position.step, self._config.attempt), position)
        self._saved = position
        return CheckpointReport(
            step=position.step,
            time=manifest.time,
            bytes=manifest.bytes,
            save_seconds=time.monotonic() - began,
            request=request,
        )

    def has(self, position: Position) -> bool:
        """Return whether this position was saved or resumed from."""
        return (
            self._saved is not None
            and self._saved.step == position.step
            and (self._saved.evaluated == position.evaluated)
        )

    def _make_room(self, unfinished: Path) -> None:
        if self._ranks.rank == 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)

    def _write_share(self, engine: Any, unfinished: Path) -> dict[str, File] | OSError:
        """Write this rank's files and return them, or the error.

        After an error this rank still takes part in the gathering, so that the other ranks do not wait for it.
        """
        writers = 1 if engine_state.size(engine) <= ONE_FILE_ELEMENTS else self._ranks.world
        writer = _Writer(unfinished, self._ranks.rank)
        for number, (name, state) in enumerate(engine_state.read(engine)):
            self._ranks.activity.tick()
            if number % writers == self._ranks.rank:
                writer.add({f"{kind}/{name}": tensor for kind, tensor in state.items()})
        if self._ranks.rank == 0:
            writer.add(
                {f"{engine_state.BUFFER}/{n}": tensor for n, tensor in persistent_buffers(engine.module).items()}
            )
        writer.flush()
        return writer.failure or writer.files

    def _publish(self, unfinished: Path, name: str, manifest: Manifest) -> None:
        if self._ranks.rank == 0:
            files.check_sizes(unfinished, manifest.files)
            files.write_manifest(unfinished, manifest)
            files.publish(self._folder, unfinished, name)

    def _check_share(self, path: Path, manifest: Manifest) -> None:
        names = sorted(manifest.files)[self._ranks.rank :: self._ranks.world]
        files.check_files(path, [(name, manifest.files[name]) for name in names])

    def _let_go(self, newest: Found, position: Position) -> None:
        best = position.best.step if position.best else None
        for checkpoint in files.outdated(files.found(self._folder), newest, self._config.checkpoint.keep, best):
            files.remove(checkpoint.path)

    # ---- resuming ---------------------------------------------------------------------------------------------------

    def resume(self, engine: Any) -> tuple[Manifest, CheckpointReport] | None:
        """Restore the newest checkpoint that verifies and whose model answers as it did. All ranks call this.

        Returns None if there is no checkpoint at all. Raises NoCheckpointError if there are some but none can be
        trusted.
        """
        if self._ranks.rank == 0:
            files.sweep(self._folder, self._config.attempt)
        (names, *_), failure = self._ranks.outcomes(lambda: [found.path.name for found in files.found(self._folder)])
        if failure is not None:
            raise OSError(f"the checkpoints in {self._folder} cannot be listed: {failure}")
        refused: list[str] = []
        for name in names:
            manifest, failure = self._restored(engine, self._folder / name)
            if failure is None:
                self._saved = manifest.position
                return manifest, _resumed(manifest, refused)
            refused.append(failure.replace(f"{self._workspace}/", ""))
            if self._ranks.rank == 0:
                sys.stderr.write(f"A checkpoint is not used: {failure}\n")
        if not names:
            return None
        raise NoCheckpointError(
            f"none of {len(names)} checkpoints can be trusted: {'; '.join(refused[:3])}; "
            "change retrain.request for a new run"
        )

    def restore(self, engine: Any, step: int) -> str | None:
        """Give the engine the state that it had after `step`. All ranks call this.

        Returns None, or a sentence on why no checkpoint of that step can be used. The engine is then unchanged, unless
        the model of a checkpoint answered differently.
        """
        (names, *_), failure = self._ranks.outcomes(
            lambda: [found.path.name for found in files.found(self._folder) if found.step == step]
        )
        failure = failure or f"there is no checkpoint of step {step}"
        for name in names or ():
            _, failure = self._restored(engine, self._folder / name)
            if failure is None:
                return None
        return failure.replace(f"{self._workspace}/", "")

    def _restored(self, engine: Any, path: Path) -> tuple[Any, str | None]:
        """Restore a checkpoint and return its manifest, and the reason if it is not used.

        It is used if every file is as it was written and the model answers as it did.
        """

        def check_files() -> None:
            manifest = files.read_manifest(path)
            if manifest.origin != self._origin:
                difference = _difference(manifest.origin, self._origin)
                raise UntrustedError(f"{path} belongs to another training: {difference}")
            self._check_share(path, manifest)

        _, failure = self._ranks.outcomes(check_files)
        if failure is not None:
            return None, failure
        manifest = files.read_manifest(path)
        states = _States(path, manifest.files)
        engine_state.write(engine, states)
        for name, buffer in persistent_buffers(engine.module).items():
            buffer.copy_(states.tensor(f"{engine_state.BUFFER}/{name}"))
        answered = probe(engine, self._prepared, self._config, self._ranks)
        _, failure = self._ranks.outcomes(lambda: self._check_answer(path, answered, manifest.probe))
        return manifest, failure

    def _check_answer(self, path: Path, now: Probe | None, then: Probe) -> None:
        if now is None or differs(now, then, PROBE_TOLERANCE[self._config.training.precision]):
            raise UntrustedError(
                f"the model of {path} does not answer as it did when it was saved: its loss is "
                f"{'not finite' if now is None else now.loss_sum} instead of {then.loss_sum}"
            )

    def _told(self, path: Path) -> Path:
        """Return the path as users know it, relative to the workspace."""
        return path.relative_to(self._workspace)


def _resumed(manifest: Manifest, refused: list[str]) -> CheckpointReport:
    return CheckpointReport(
        step=manifest.position.step,
        time=manifest.time,
        bytes=manifest.bytes,
        save_seconds=manifest.save_seconds,
        request=manifest.request,
        failure=f"a newer checkpoint is not used: {refused[0]}" if refused else None,
    )


def _difference(theirs: Origin, ours: Origin) -> str:
    name = next(name for name in Origin.model_fields if getattr(theirs, name) != getattr(ours, name))
    return f"its {name} is {getattr(theirs, name)} instead of {getattr(ours, name)}"


def _finished(written: dict[str, File] | OSError) -> dict[str, Any]:
    if isinstance(written, OSError):
        raise written
    return {name: file.model_dump() for name, file in written.items()}


class _Writer:
    """Writes a rank's files. After the first one that cannot be written it discards the rest."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder = folder
        self._rank = rank
        self._pending: dict[str, torch.Tensor] = {}
        self._bytes = 0
        self.files: dict[str, File] = {}
        self.failure: OSError | None = None

    def add(self, tensors: Mapping[str, torch.Tensor]) -> None:
        if self.failure is not None:
            return
        for name, tensor in tensors.items():
            self._pending[name] = tensor.detach().to("cpu", copy=True).contiguous()
            self._bytes += tensor.numel() * tensor.element_size()
        if self._bytes >= FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        if self.failure is not None or not self._pending:
            return
        name = f"state-{self._rank}-{len(self.files)}.safetensors"
        try:
            self.files[name] = files.write_synced(self._folder / name, to_bytes(self._pending))
        except OSError as error:
            self.failure = error
        self._pending, self._bytes = {}, 0


class _States(Mapping[str, engine_state.State]):
    """The states in a checkpoint's files. Each tensor is read when it is accessed."""

    def __init__(self, path: Path, names: Mapping[str, File]) -> None:
        self._files: dict[str, Any] = {}
        self._kinds: dict[str, list[str]] = {}
        for name in names:
            try:
                opened = safe_open(str(path / name), framework="pt")
            except SafetensorError as error:
                raise UntrustedError(f"{path / name} cannot be read ({error})") from None
            for key in opened.keys():  # noqa: SIM118  # not a dictionary
                self._files[key] = opened
                kind, _, parameter = key.partition("/")
                self._kinds.setdefault(parameter, []).append(kind)

    def tensor(self, key: str) -> torch.Tensor:
        found: torch.Tensor = self._files[key].get_tensor(key)
        return found

    def __getitem__(self, name: str) -> engine_state.State:
        return _State(self, name, self._kinds[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)


class _State(Mapping[str, torch.Tensor]):
    def __init__(self, states: _States, name: str, kinds: list[str]) -> None:
        self._states = states
        self._name = name
        self._kinds = kinds

    def __getitem__(self, kind: str) -> torch.Tensor:
        if kind not in self._kinds:
            raise KeyError(kind)
        return self._states.tensor(f"{kind}/{self._name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)
