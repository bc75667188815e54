"""Containers of the two images, as restricted as in a cluster. Without Docker or the images, the tests are skipped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

LOCKED_DOWN = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")
Run = Callable[..., subprocess.CompletedProcess[str]]


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="session")
def engine() -> None:
    if not shutil.which("docker") or docker("version").returncode:
        pytest.skip("needs a Docker engine that answers: start one and run make images test-images")


def image_named(variable: str) -> str:
    name = os.environ.get(variable)
    if not name or docker("image", "inspect", name).returncode:
        pytest.skip(f"needs the image of {variable} ({name or 'not set'}): run make images test-images")
    return name


@pytest.fixture(scope="session")
def operator_image(engine: None) -> str:
    return image_named("OPERATOR_IMAGE")


@pytest.fixture(scope="session")
def trainer_image(engine: None) -> str:
    return image_named("TRAINER_IMAGE")


@pytest.fixture(params=["OPERATOR_IMAGE", "TRAINER_IMAGE"])
def image(engine: None, request: pytest.FixtureRequest) -> str:
    """Return the name of an image; each test runs with both."""
    return image_named(request.param)


@pytest.fixture
def run(engine: None) -> Run:
    """Return a function that runs a command in a restricted container of an image and returns how it ended."""

    def run(image: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        entrypoint = ("--entrypoint", command[0]) if command else ()
        return docker("run", "--rm", *LOCKED_DOWN, *options, *entrypoint, image, *command[1:])

    return run


@pytest.fixture
def inspect() -> Callable[[str], dict[str, Any]]:
    """Return a function that returns the container engine's metadata of an image."""

    def inspect(image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("image", "inspect", image).stdout)[0]
        return found

    return inspect
