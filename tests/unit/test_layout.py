"""The structure of the repository: it neither breaks the standard library nor violates the layers."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_operator_is_a_folder_and_not_a_package() -> None:
    assert (ROOT / "operator").is_dir()
    assert not (ROOT / "operator" / "__init__.py").exists(), "it would shadow the standard library's operator"


def test_the_standard_library_works_in_the_root() -> None:
    code = "import operator, collections; print(operator.eq(1, 1))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


def test_the_command_line_loads_neither_torch_nor_clients() -> None:
    code = (
        "import sys; from finetune_operator.cli.main import parser; parser(); "
        "print([m for m in ('torch', 'kopf', 'kubernetes', 'rich', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_operator_loads_no_torch() -> None:
    code = (
        "import sys, finetune_operator.runtime.handlers, finetune_operator.kube.client, finetune_operator.cli.run; "
        "print([m for m in ('torch', 'transformers', 'deepspeed', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
