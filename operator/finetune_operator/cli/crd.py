"""The command `finetune crd`: print the CustomResourceDefinition."""

from __future__ import annotations

import argparse
import sys

from finetune_operator.api.crd import crd_yaml


def main(options: argparse.Namespace) -> int:
    sys.stdout.write(crd_yaml())
    return 0
