"""A trainer pod as a process: the agent with a pod's environment and folders, and ranks that run the test's source."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from support import run_configs

from finetune_operator.local.ports import free_ports
from finetune_trainer import contract
from finetune_trainer.contract import PodStatus, RunConfig, TerminationMessage, World

HERE = Path(__file__).parent
FAKE_STORE = "fake_store"
DEADLINE_SECONDS = 60.0

DRIVER = """
import sys
from pathlib import Path
from finetune_trainer.agent import life as agent
from finetune_trainer.agent.cgroup import Cgroup
from finetune_trainer.agent.stop import Deadlines
cgroup, store, start_seconds = sys.argv[1:]
deadlines = Deadlines(terminate=1.0, kill=0.5)
sys.exit(agent.main("rank_of_test", store, Cgroup(root=Path(cgroup)), deadlines, float(start_seconds)))
"""

Found = TypeVar("Found")


def wait_until(condition: Callable[[], Found], seconds: float = DEADLINE_SECONDS) -> Found:
    """Return the first true value of the condition. Raises AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s")


def run_config(nodes: int = 1, processes_per_node: int = 1) -> RunConfig:
    """Return the run.json of the third attempt of a run on CPUs."""
    world = World(nodes=nodes, processes_per_node=processes_per_node, device="cpu")
    return run_configs.run_config(attempt=3, nonce="n0", zero_stage=2, world=world)


class Pod:
    """One agent in a process of its own."""

    def __init__(
        self,
        folder: Path,
        rank_source: str,
        config: RunConfig,
        index: int = 0,
        store: str = FAKE_STORE,
        ports: tuple[int, int] | None = None,
        grace: float = 60.0,
        environment: dict[str, str] | None = None,
        start_seconds: float = 120.0,
    ) -> None:
        """Prepare the pod's folders.

        `ports` are those of the agent and of the rendezvous; free ones are chosen by default. `start_seconds` is how
        long a rank may take to start.
        """
        self.config = config
        self.index = index
        self.folder = folder / f"pod-{index}"
        self.scratch = self.folder / "scratch"
        self.workspace = folder / "workspace"
        self.cgroup = self.folder / "cgroup"
        self.termination_log = self.folder / "termination-log"
        self.run_json = self.folder / "run.json"
        for path in (self.scratch, self.cgroup):
            path.mkdir(parents=True)
        self.workspace.mkdir(exist_ok=True)
        (self.cgroup / "memory.events").write_text("low 0\noom 0\noom_kill 0\n")
        (self.folder / "rank_of_test.py").write_text("from fake_rank import *\n" + textwrap.dedent(rank_source))
        self.run_json.write_text(config.to_json())
        self.port, rendezvous_port = ports or free_ports(2)
        self._store = store
        self._start_seconds = start_seconds
        self._environment = os.environ | {
            "PYTHONPATH": f"{self.folder}:{HERE}",
            contract.ENV_RUN_CONFIG: str(self.run_json),
            contract.ENV_WORKSPACE: str(self.workspace),
            contract.ENV_CLAIMS: str(folder / "claims"),
            contract.ENV_SCRATCH: str(self.scratch),
            contract.ENV_TERMINATION_LOG: str(self.termination_log),
            contract.ENV_RENDEZVOUS: f"127.0.0.1:{rendezvous_port}",
            contract.ENV_AGENT_PORT: str(self.port),
            contract.ENV_GRACE: str(grace),
            contract.ENV_POD_UID: f"uid-{index}",
            contract.ENV_POD_IP: "127.0.0.1",
            contract.ENV_POD_INDEX: str(index),
            **(environment or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Pod:
        with (self.folder / "stdout").open("wb") as out, (self.folder / "stderr").open("wb") as err:
            command = [sys.executable, "-c", DRIVER, str(self.cgroup), self._store, str(self._start_seconds)]
            self.process = subprocess.Popen(
                command, env=self._environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True
            )
        return self

    def end(self) -> tuple[int, TerminationMessage]:
        """Wait until the agent ends, and return its exit code and termination message."""
        assert self.process
        code = self.process.wait(DEADLINE_SECONDS)
        return code, TerminationMessage.model_validate_json(self.termination_log.read_bytes())

    def run(self) -> tuple[int, TerminationMessage]:
        return self.start().end()

    def kill(self) -> None:
        """End the agent if a failed test has left it running."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def signal(self, number: int = signal.SIGTERM) -> None:
        assert self.process
        self.process.send_signal(number)

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def get(self, path: str) -> tuple[int, str]:
        """Return the HTTP status and the body, or (0, "") if nothing listens."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def status(self) -> PodStatus | None:
        code, body = self.get(contract.STATUS_PATH)
        return PodStatus.model_validate_json(body) if code == 200 else None

    def output(self, stream: str = "stdout") -> str:
        return (self.folder / stream).read_text()

    def record(self) -> dict[str, Any]:
        """Return the message with the full log, which the agent writes into the workspace."""
        path = self.workspace / self.config.folder / "attempts" / "3" / f"pod-{self.index}.json"
        return dict(json.loads(path.read_text()))
