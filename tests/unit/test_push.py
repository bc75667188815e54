"""`make push` pushes both images to a registry. A stand-in for Docker records its arguments."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Return the file in which the stand-in records its arguments."""
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    docker.chmod(0o755)
    return tmp_path / "asked"


def push(folder: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    names = ("OPERATOR_IMAGE=finetune-operator:9.9", "TRAINER_IMAGE=finetune-trainer:9.9")
    command = ["make", "push", *names, *variables]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_both_images_are_tagged_for_the_registry_and_pushed(asked: Path) -> None:
    done = push(asked.parent, "REGISTRY=registry.example/team")
    assert done.returncode == 0, done.stderr
    assert asked.read_text().splitlines() == [
        "tag finetune-operator:9.9 registry.example/team/finetune-operator:9.9",
        "push registry.example/team/finetune-operator:9.9",
        "tag finetune-trainer:9.9 registry.example/team/finetune-trainer:9.9",
        "push registry.example/team/finetune-trainer:9.9",
    ]


def test_without_a_registry_it_says_what_is_missing(asked: Path) -> None:
    done = push(asked.parent)
    assert done.returncode == 2
    assert "make push: set REGISTRY to where the images go, such as registry.example/team" in done.stdout
    assert not asked.exists()
