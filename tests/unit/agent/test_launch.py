"""The ranks' environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from unit.agent.conftest import MakePod
from unit.agent.pod import run_config

from finetune_trainer.agent import launch


def test_a_rank_is_told_its_place_and_where_to_meet() -> None:
    config = run_config(nodes=4, processes_per_node=8)
    assert launch.place(config, 2, 3, ("rank-0.svc", 29500), Path("/scratch/modules/3")) == {
        "RANK": "19",
        "LOCAL_RANK": "3",
        "WORLD_SIZE": "32",
        "LOCAL_WORLD_SIZE": "8",
        "GROUP_RANK": "2",
        "MASTER_ADDR": "rank-0.svc",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "HF_MODULES_CACHE": "/scratch/modules/3",
    }


def test_the_place_is_not_the_users_to_change(make_pod: MakePod) -> None:
    wrong = {"RANK": "7", "WORLD_SIZE": "9", "MASTER_ADDR": "elsewhere"}
    pod = make_pod("print(RANK, WORLD, os.environ['MASTER_ADDR']); done()", environment=wrong)
    assert pod.run()[0] == 0
    assert pod.output() == "0 1 127.0.0.1\n"


@pytest.mark.parametrize(("cpus", "processes", "threads"), [(8.0, 2, "4"), (7.9, 2, "3"), (0.5, 1, "1"), (4.0, 8, "1")])
def test_the_cpus_are_shared_by_the_ranks(cpus: float, processes: int, threads: str) -> None:
    variables = launch.environment({}, run_config(processes_per_node=processes), cpus)
    assert variables["OMP_NUM_THREADS"] == threads


def test_what_the_user_has_set_stays() -> None:
    given = {"OMP_NUM_THREADS": "3", "TOKENIZERS_PARALLELISM": "true", "OWN": "x"}
    variables = launch.environment(given, run_config(), 8)
    assert variables == given | launch.NO_TELEMETRY | {"DS_ACCELERATOR": "cpu"}
    assert launch.environment({"DO_NOT_TRACK": "0"}, run_config(), 8)["DO_NOT_TRACK"] == "0"


def test_no_library_is_left_to_tell_others(make_pod: MakePod) -> None:
    """The telemetry switches are set where the rank's libraries read them."""
    pod = make_pod("import os, json; print(json.dumps(dict(os.environ))); done()")
    code, _ = pod.run()
    assert code == 0
    seen = json.loads(pod.output().splitlines()[0])
    assert {name: seen[name] for name in launch.NO_TELEMETRY} == launch.NO_TELEMETRY
    assert seen["HF_MODULES_CACHE"].startswith(str(pod.scratch))


def test_the_installed_libraries_obey_the_switches() -> None:
    pytest.importorskip("transformers", reason="needs the extra `trainer`: make setup")
    program = """
import datasets.config, huggingface_hub.constants as hub, transformers.utils as utils
assert hub.HF_HUB_DISABLE_TELEMETRY
assert hub.HF_HUB_DISABLE_UPDATE_CHECK
assert not datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
assert utils.is_env_variable_true("DISABLE_SAFETENSORS_CONVERSION")
from huggingface_hub.utils import _telemetry, send_telemetry
send_telemetry("anything")
assert _telemetry._TELEMETRY_QUEUE.empty()
"""
    environment = {**os.environ, **launch.NO_TELEMETRY}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_switch_is_known_to_an_installed_library() -> None:
    """A switch that no library reads any longer has no effect."""
    transformers = pytest.importorskip("transformers", reason="needs the extra `trainer`: make setup")
    packages = Path(transformers.__file__).parents[1]
    sources = [
        packages / "huggingface_hub" / "constants.py",
        packages / "datasets" / "config.py",
        packages / "transformers" / "modeling_utils.py",
    ]
    text = "".join(source.read_text() for source in sources)
    assert [name for name in launch.NO_TELEMETRY if name not in text] == []


def test_only_cpu_training_names_deepspeeds_accelerator() -> None:
    config = run_config()
    on_gpus = config.model_copy(update={"world": config.world.model_copy(update={"device": "cuda"})})
    assert "DS_ACCELERATOR" not in launch.environment({}, on_gpus, 8)
