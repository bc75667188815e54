"""The hook that disturbs a rank from inside, without a real training."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_scoreboard.faults import Act

HOOK = Path(__file__).parents[3] / "benchmarks" / "faults" / "rank_hook"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("hook_of_ranks", HOOK / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variables(folder: Path, act: str, rank: int = 0) -> dict[str, str]:
    (folder / "steps").mkdir(exist_ok=True)
    return {
        "RANK": str(rank),
        "FAULT_FOLDER": str(folder),
        "FAULT_ATTEMPT": "1",
        "FAULT_ACT": act,
        "FAULT_STEP": "2",
        "FAULT_MEMORY_LIMIT_ROWS": "2",
        "FAULT_FULL_SECONDS": "0.2",
    }


@pytest.fixture
def rank_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    hook = load()
    monkeypatch.setattr(hook, "STEP_SECONDS", 0.0)
    return lambda act="", rank=0: hook.Rank(variables(tmp_path, act, rank))


def test_each_step_leaves_its_time(tmp_path: Path, rank_of: Callable[..., Any]) -> None:
    rank = rank_of(rank=1)
    rank.after_step()
    rank.after_step()
    first, second = map(float, (tmp_path / "steps" / f"1-1-{os.getpid()}").read_text().split())
    assert first <= second


def test_memory_runs_out_from_the_fault_on_for_large_micro_batches(rank_of: Callable[..., Any]) -> None:
    torch = pytest.importorskip("torch")
    rank = rank_of(Act.EXHAUST_MEMORY.value)
    rank.before_forward(True, 4)
    rank.after_step()
    rank.after_step()
    rank.before_forward(True, 2)
    rank.before_forward(False, 4)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        rank.before_forward(True, 3)
    of_next_attempt = rank_of(Act.EXHAUST_MEMORY.value)
    with pytest.raises(torch.OutOfMemoryError):
        of_next_attempt.before_forward(True, 4)


def in_a_rank(folder: Path, act: Act, code: str, rank: int = 0) -> subprocess.CompletedProcess[str]:
    """Run code in a Python process that has loaded the hook at its start."""
    environment = {**os.environ, **variables(folder, act.value, rank), "PYTHONPATH": str(HOOK)}
    command = [sys.executable, "-c", f"import sitecustomize\n{code}"]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60)


COMMON = """
import os
from sitecustomize import Rank
rank = Rank(dict(os.environ))
def grows(size):
    try:
        with open("weights", "wb", buffering=0) as file:
            while file.tell() < size:
                file.write(bytes(size - file.tell()))
        return True
    except OSError:
        return False
print(grows(100_000))
rank.after_step()
rank.after_step()
print(grows(10_000), flush=True)
"""


def test_the_writer_of_weights_dies_with_a_part_of_the_file_written(tmp_path: Path) -> None:
    code = f"{COMMON}grows(100_000)\nprint('alive')"
    done = in_a_rank(tmp_path, Act.KILL_WHILE_SAVING, code)
    assert (done.returncode, done.stdout) == (-signal.SIGXFSZ, "True\nTrue\n")
    assert (tmp_path / "weights").stat().st_size == 40_000
    again = in_a_rank(tmp_path, Act.KILL_WHILE_SAVING, code)
    assert again.stdout.endswith("alive\n"), "it happens once"


def test_only_rank_0_dies_of_its_weights(tmp_path: Path) -> None:
    done = in_a_rank(tmp_path, Act.KILL_WHILE_SAVING, f"{COMMON}print(grows(100_000))", rank=1)
    assert done.stdout == "True\nTrue\nTrue\n", done.stderr


FILL = f"""{COMMON}
print(grows(100_000))
while not grows(100_000):
    rank.after_step()
print("room again")
"""


def test_no_file_can_grow_while_the_disk_is_full(tmp_path: Path) -> None:
    done = in_a_rank(tmp_path, Act.FILL_DISK, FILL)
    assert done.stdout == "True\nTrue\nFalse\nroom again\n", done.stderr


ENGINE = """
class DeepSpeedEngine:
    training = True
    def is_gradient_accumulation_boundary(self):
        return self.boundary
    def step(self):
        return "stepped"
    def forward(self, **features):
        return "answered"
"""


def test_the_engine_is_watched_as_soon_as_it_is_imported(tmp_path: Path) -> None:
    package = tmp_path / "deepspeed" / "runtime"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "engine.py").write_text(ENGINE)
    code = """
import sys
sys.path.insert(0, ".")
from deepspeed.runtime.engine import DeepSpeedEngine
engine = DeepSpeedEngine()
for engine.boundary in (False, True):
    print(engine.forward(input_ids=[1, 2]), engine.step())
"""
    done = in_a_rank(tmp_path, Act.EXHAUST_MEMORY, code)
    assert done.stdout == "answered stepped\nanswered stepped\n", done.stderr
    (steps,) = (tmp_path / "steps").iterdir()
    assert len(steps.read_text().splitlines()) == 1, "a step has several micro-batches"
