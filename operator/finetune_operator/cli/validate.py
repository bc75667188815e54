"""The command `finetune validate`: check manifests without a cluster."""

from __future__ import annotations

import argparse

from finetune_operator.cli.errors import UsageError
from finetune_operator.cli.jobs import read_jobs
from finetune_operator.core.run.resolve import refusals
from finetune_operator.core.settings import Settings


def main(options: argparse.Namespace) -> int:
    sentences: list[str] = []
    for file in options.file:
        try:
            for _, job in read_jobs(file):
                faults = refusals(job.spec, Settings(image="", local=True))
                sentences += [f"{file}: {fault}" for fault in faults]
                if not faults:
                    print(f"{file}: {job.metadata.name} is valid")
        except UsageError as error:
            sentences += error.sentences
    if sentences:
        raise UsageError(*sentences)
    return 0
