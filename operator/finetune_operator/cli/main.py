"""The command line `finetune`. Each command is a module, which is imported only when the command is run.

So `finetune --help` is fast, and `finetune crd` loads neither kopf nor kubernetes nor rich.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from finetune_operator.cli.errors import UsageError
from finetune_operator.cli.exit_codes import BROKEN_PIPE, DONE, INTERRUPTED, INVALID

DISTRIBUTION = "finetune-operator"
"""The name of the installed package, whose version is the one in pyproject.toml."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands and their options."""
    top = argparse.ArgumentParser(
        prog="finetune", description="Distributed fine-tuning: on this machine or in a cluster."
    )
    top.add_argument("--version", action=ShowVersion, nargs=0, help="print the version")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    run = _command(commands, "run", "train a FineTuneJob on this machine")
    run.add_argument("file", help="manifest of one FineTuneJob")
    run.add_argument("--workspace", default="workspace", metavar="DIR", help="folder that stands for the job's storage")
    run.add_argument(
        "--claim", action="append", default=[], metavar="NAME=DIR", help="folder of a pvc://NAME (repeatable)"
    )

    validate = _command(commands, "validate", "check manifests without a cluster")
    validate.add_argument("file", nargs="+")

    submit = _command(commands, "submit", "apply a FineTuneJob to a cluster")
    submit.add_argument("file")
    _of_a_cluster(submit)

    watch = _command(commands, "watch", "follow a FineTuneJob in a cluster to its end")
    watch.add_argument("name")
    _of_a_cluster(watch)

    logs = _command(commands, "logs", "print the log of a FineTuneJob's newest attempt")
    logs.add_argument("name")
    logs.add_argument("--index", type=int, default=0, help="of the pod; rank 0 is in pod 0 (default: 0)")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the pod ends")
    _of_a_cluster(logs)

    operator = _command(commands, "operator", "run the operator, in a pod or with a kubeconfig")
    operator.add_argument(
        "-n", "--namespace", action="append", metavar="NAME", help="watch this namespace (repeatable; default: all)"
    )
    operator.add_argument("--config", metavar="FILE", help="what holds for jobs that do not say otherwise (YAML)")
    operator.add_argument("--trainer-image", metavar="IMAGE", help="for jobs that name none")
    operator.add_argument(
        "--agent-access",
        choices=("direct", "proxy"),
        default="direct",
        help="how pods are asked for progress; proxy: through the API server, for an operator outside of the cluster",
    )
    operator.add_argument(
        "--http-port",
        default="8080",
        metavar="PORT",
        help="of /healthz, /readyz and /metrics; 0: none (default: 8080)",
    )

    _command(commands, "crd", "print the CustomResourceDefinition")
    return top


class ShowVersion(argparse.Action):
    """Prints the version of the installed package, which is looked up only when it is requested, and exits."""

    def __call__(self, *_: object) -> None:
        from importlib.metadata import version

        print(f"finetune {version(DISTRIBUTION)}")
        sys.exit(DONE)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    command.set_defaults(command=name)
    return command


def _of_a_cluster(command: argparse.ArgumentParser) -> None:
    command.add_argument("-n", "--namespace", metavar="NAME", help="default: the manifest's, then the kubeconfig's")
    command.add_argument("--context", help="of the kubeconfig")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    A mistake of the user leads to messages on stderr and exit code 2.
    """
    options = parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = import_module(f"finetune_operator.cli.{options.command}").main
        code = command(options)
        sys.stdout.flush()
        return code
    except UsageError as error:
        for sentence in error.sentences:
            print(f"finetune: {sentence}", file=sys.stderr)
        return INVALID
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, a pager) has closed the pipe. Python flushes stdout again at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
