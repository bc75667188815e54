"""Reads FineTuneJobs from files, with a message for each fault."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from finetune_operator.api.parse import InvalidManifestError, parse
from finetune_operator.api.v1alpha1 import FineTuneJob
from finetune_operator.cli.errors import UsageError
from finetune_operator.cli.manifest import ManifestError, load_manifests


def read_jobs(file: str) -> list[tuple[dict[str, Any], FineTuneJob]]:
    """Return all FineTuneJobs of a file, or of standard input if the file is '-'.

    Raises UsageError.
    """
    try:
        text = (sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{file}: cannot be read ({reason}); give the path of a manifest") from None
    try:
        manifests = load_manifests(text, file)
    except ManifestError as error:
        raise UsageError(str(error)) from None
    if not manifests:
        raise UsageError(f"{file}: there is no manifest in it; write a FineTuneJob")
    jobs = []
    sentences: list[str] = []
    for found in manifests:
        # Only the operator writes a status, so one that `kubectl get -o yaml` has saved is ignored.
        manifest = {key: value for key, value in found.items() if key != "status"}
        try:
            jobs.append((manifest, parse(manifest)))
        except InvalidManifestError as error:
            sentences += [f"{file}: {sentence}" for sentence in error.sentences]
    if sentences:
        raise UsageError(*sentences)
    return jobs


def read_job(file: str) -> tuple[dict[str, Any], FineTuneJob]:
    """Return the only FineTuneJob of a file.

    Raises UsageError.
    """
    jobs = read_jobs(file)
    if len(jobs) > 1:
        raise UsageError(f"{file}: has {len(jobs)} FineTuneJobs; give a file with one")
    return jobs[0]
