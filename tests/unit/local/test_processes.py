"""Pods as processes: what a container may rely on, and that nothing of a pod is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.jobs import config_map, headless_service, job

from finetune_operator.constants import LABEL_INDEX, LABEL_JOB_NAME
from finetune_operator.local import memory
from finetune_operator.local.cluster import LocalCluster
from finetune_operator.local.driver import SECRETS
from finetune_operator.local.processes import ProcessDriver
from finetune_operator.protocol import CONFIGMAPS, JOBS, PODS, SERVICES, Object

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: several loopback addresses, /proc")


class Laptop:
    """A cluster whose pods are processes, with helpers for the tests."""

    def __init__(self, folder: Path) -> None:
        self.workspace = folder / "workspace"
        self.driver = ProcessDriver({"storage": self.workspace}, folder / "logs")
        self.cluster = LocalCluster(self.driver)
        self.cluster.add_namespace("lab")

    async def run(self, script: str, pods: int = 1, **pod_spec: Any) -> None:
        command = ["python3", "-c", textwrap.dedent(script)]
        await self.cluster.create(JOBS, job("task", "lab", *command, pods=pods, **pod_spec))

    async def until(self, what: Callable[[list[Object]], Any]) -> list[Object]:
        """Return the pods as soon as the condition is true of them. Fails after 20 seconds."""
        pods: list[Object] = []
        try:
            async with asyncio.timeout(20):
                while not what(pods := await self.cluster.list(PODS, "lab")):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"never came true; the pods are {pods}") from None
        return pods

    async def ended(self, count: int = 1) -> list[Object]:
        return await self.until(
            lambda pods: len(pods) == count and all(p["status"]["phase"] in ("Succeeded", "Failed") for p in pods)
        )

    def log(self, pod: Object) -> str:
        return self.driver.logs("lab", pod["metadata"]["name"]).read_text()


@pytest.fixture
async def laptop(tmp_path: Path) -> AsyncIterator[Laptop]:
    laptop = Laptop(tmp_path)
    await laptop.cluster.start()
    yield laptop
    await laptop.cluster.close()


def terminated(pod: Object) -> Object:
    state: Object = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return state


def waiting(pods: list[Object]) -> Object:
    statuses = pods[0]["status"].get("containerStatuses", [{"state": {}}]) if pods else [{"state": {}}]
    state: Object = statuses[0]["state"].get("waiting", {})
    return state


def is_running(pods: list[Object]) -> bool:
    return bool(pods) and all(pod["status"]["phase"] == "Running" for pod in pods)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def exists(path: str) -> bool:
    return Path(path).exists()


async def eventually(what: Callable[[], Any]) -> Any:
    async with asyncio.timeout(20):
        while not (result := what()):
            await asyncio.sleep(0.01)
    return result


async def test_a_pod_that_ends_well_is_succeeded_and_its_log_is_kept(laptop: Laptop) -> None:
    await laptop.run("print('hello'); import sys; print('to the error stream', file=sys.stderr)")
    (pod,) = await laptop.ended()
    assert pod["status"]["phase"] == "Succeeded"
    assert terminated(pod)["exitCode"] == 0
    assert terminated(pod)["reason"] == "Completed"
    assert "hello" in laptop.log(pod)
    assert "to the error stream" in laptop.log(pod)


@pytest.mark.parametrize(("megabytes", "reason", "exit_code"), [(10, "Completed", 0), (300, "OOMKilled", 137)])
async def test_a_pod_that_takes_more_memory_than_its_limit_is_ended(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, megabytes: int, reason: str, exit_code: int
) -> None:
    """A child of the first process holds the memory, for longer than the interval between two checks."""
    monkeypatch.setattr(memory, "SECONDS_BETWEEN_LOOKS", 0.05)
    await laptop.run(
        f"""
        import subprocess, sys
        held = "import time; held = b'x' * ({megabytes} << 20); time.sleep({30 if exit_code else 0.3})"
        sys.exit(subprocess.run([sys.executable, "-c", held]).returncode)
        """,
        container={"resources": {"limits": {"memory": "150Mi"}}},
    )
    (pod,) = await laptop.ended()
    assert (terminated(pod)["reason"], terminated(pod)["exitCode"]) == (reason, exit_code)


async def test_the_termination_message_is_read_from_its_file_and_cut_to_4096_bytes(laptop: Laptop) -> None:
    await laptop.run(
        "import os, sys; open(os.environ['LAST_WORDS'], 'w').write('x' * 5000); sys.exit(76)",
        container={"env": [{"name": "LAST_WORDS", "value": "/dev/termination-log"}]},
    )
    (pod,) = await laptop.ended()
    assert pod["status"]["phase"] == "Failed"
    assert terminated(pod)["exitCode"] == 76
    assert terminated(pod)["reason"] == "Error"
    assert terminated(pod)["message"] == "x" * 4096


async def test_a_signal_n_gives_exit_code_128_plus_n(laptop: Laptop) -> None:
    await laptop.run("import os; os.kill(os.getpid(), 9)")
    (pod,) = await laptop.ended()
    assert terminated(pod)["exitCode"] == 137


async def test_a_command_that_is_not_there_fails_with_128_and_says_so(laptop: Laptop) -> None:
    await laptop.cluster.create(JOBS, job("task", "lab", "no-such-program", pods=1))
    (pod,) = await laptop.ended()
    assert terminated(pod)["exitCode"] == 128
    assert "cannot start no-such-program: No such file or directory" in laptop.log(pod)


async def test_mounted_paths_are_local_folders_in_command_and_environment(laptop: Laptop, tmp_path: Path) -> None:
    await laptop.cluster.create(CONFIGMAPS, config_map("settings", "lab", **{"run.json": '{"a": 1}'}))
    script = """
        import os, pathlib
        scratch = pathlib.Path(os.environ["SCRATCH"])
        assert not list(scratch.iterdir())
        (scratch / "note").write_text("for a while")
        workspace = pathlib.Path(os.environ["WORKSPACE"])
        (workspace / "result").write_text(pathlib.Path(os.environ["CONFIG"]).read_text())
        print(scratch, os.environ["SHM"], os.environ["OTHER"])
    """
    env = {
        "CONFIG": "/etc/app/run.json",
        "WORKSPACE": "/work",
        "SCRATCH": "/scratch",
        "SHM": "/dev/shm",
        "OTHER": "/works",
    }
    await laptop.run(
        script,
        volumes=[
            {"name": "config", "configMap": {"name": "settings"}},
            {"name": "storage", "persistentVolumeClaim": {"claimName": "storage"}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
        container={
            "env": [{"name": name, "value": value} for name, value in env.items()],
            "volumeMounts": [
                {"name": "config", "mountPath": "/etc/app"},
                {"name": "storage", "mountPath": "/work"},
                {"name": "scratch", "mountPath": "/scratch"},
                {"name": "shared-memory", "mountPath": "/dev/shm"},
            ],
        },
    )
    (pod,) = await laptop.ended()
    assert terminated(pod)["exitCode"] == 0, laptop.log(pod)
    assert (laptop.workspace / "result").read_text() == '{"a": 1}'
    scratch, shared_memory, other = laptop.log(pod).split()
    assert shared_memory == "/dev/shm"
    assert other == "/works"
    assert exists(scratch)
    await laptop.cluster.delete(JOBS, "lab", "task")
    await laptop.cluster.idle()
    assert not exists(scratch)
    assert laptop.log(pod)


async def test_the_environment_names_the_pod_its_address_and_its_index(laptop: Laptop) -> None:
    fields = {"NAME": "metadata.name", "NAMESPACE": "metadata.namespace", "UID_": "metadata.uid", "IP": "status.podIP"}
    fields["LABEL"] = "metadata.labels['example']"
    env = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    env.append({"name": "WHO", "value": "$(NAMESPACE)/$(NAME) $$(NAME) $(UNKNOWN)"})
    script = "import os; print(*(os.environ[n] for n in "
    script += "('NAME','NAMESPACE','UID_','IP','LABEL','JOB_COMPLETION_INDEX','HOSTNAME','GLOO_SOCKET_IFNAME','WHO')))"
    await laptop.run(script, container={"env": env})
    (pod,) = await laptop.ended()
    meta = pod["metadata"]
    found = laptop.log(pod).split()
    assert found[:7] == [meta["name"], "lab", meta["uid"], pod["status"]["podIP"], "task", "0", "task-0"]
    assert found[7].startswith("lo")
    assert found[8:] == [f"lab/{meta['name']}", "$(NAME)", "$(UNKNOWN)"]


async def test_a_pod_without_its_secret_waits_and_starts_when_the_secret_comes(laptop: Laptop) -> None:
    reference = {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
    script = "import os; print(os.environ['TOKEN'])"
    await laptop.run(script, container={"env": [{"name": "TOKEN", "valueFrom": reference}]})
    pods = await laptop.until(waiting)
    assert waiting(pods) == {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub", "namespace": "lab"}}
    await laptop.cluster.create(SECRETS, {**secret, "stringData": {"HF_TOKEN": "hf_secret"}})
    (pod,) = await laptop.ended()
    assert laptop.log(pod) == "hf_secret\n"


async def test_a_pod_without_its_claim_waits_and_names_it(laptop: Laptop) -> None:
    await laptop.run("pass", volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "other"}}])
    pods = await laptop.until(waiting)
    assert waiting(pods)["message"] == 'persistentvolumeclaim "other" not found'
    await laptop.cluster.delete(JOBS, "lab", "task")
    await laptop.cluster.idle()


async def test_what_a_laptop_cannot_do_is_said(laptop: Laptop) -> None:
    await laptop.run("pass", initContainers=[{"name": "first", "image": "none"}])
    pods = await laptop.until(waiting)
    assert waiting(pods)["message"] == "a local run has no podTemplate.initContainers"


@linux_only
async def test_pods_meet_by_the_name_of_the_headless_service(laptop: Laptop) -> None:
    selector = {LABEL_JOB_NAME: "task", LABEL_INDEX: "0"}
    await laptop.cluster.create(SERVICES, headless_service("task", "lab", selector))
    script = """
        import os, socket, time
        host, port = os.environ["MEET"].rsplit(":", 1)
        index = os.environ["JOB_COMPLETION_INDEX"]
        if index == "0":
            assert host == os.environ["IP"]
            server = socket.create_server((host, int(port)))
            connection, peer = server.accept()
            print(connection.recv(100).decode())
        else:
            assert host != os.environ["IP"]
            for _ in range(500):
                try:
                    socket.create_connection((host, int(port)), source_address=(os.environ["IP"], 0)).sendall(b"hello")
                    break
                except OSError:
                    time.sleep(0.02)
            print(os.environ["UNNAMED"], os.environ["LONGER"])
    """
    env = [
        {"name": "MEET", "value": "task-0.task.lab.svc:4321"},
        {"name": "UNNAMED", "value": "task-1.task.lab.svc"},
        {"name": "LONGER", "value": "task-0.task.lab.svc.example.org"},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]
    await laptop.run(script, pods=2, container={"env": env})
    first, second = await laptop.ended(2)
    assert laptop.log(first) == "hello\n", laptop.log(first)
    assert laptop.log(second).split() == ["task-1.task.lab.svc", "task-0.task.lab.svc.example.org"]
    assert first["status"]["podIP"] != second["status"]["podIP"]


async def test_deletion_sends_sigterm_to_the_first_process_and_keeps_its_exit_code(laptop: Laptop) -> None:
    script = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        print("ready", flush=True)
        time.sleep(60)
    """
    seen: list[Object] = []

    async def watch() -> None:
        async for event in laptop.cluster.watch(PODS, "lab"):
            if event.type == "DELETED":
                seen.append(event.object)

    watching = asyncio.create_task(watch())
    await laptop.run(script)
    (pod,) = await laptop.until(is_running)
    await eventually(lambda: "ready" in laptop.log(pod))
    await laptop.cluster.delete(PODS, "lab", pod["metadata"]["name"])
    await eventually(lambda: seen)
    watching.cancel()
    assert terminated(seen[0])["exitCode"] == 75
    assert "deletionTimestamp" in seen[0]["metadata"]


@linux_only
async def test_after_the_grace_period_everything_of_the_pod_is_killed(laptop: Laptop) -> None:
    script = """
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        print(os.getpid(), child.pid, flush=True)
        time.sleep(60)
    """
    await laptop.run(script, grace=1)
    (pod,) = await laptop.until(is_running)
    pids = [int(pid) for pid in (await eventually(lambda: laptop.log(pod))).split()]
    await laptop.cluster.delete(PODS, "lab", pod["metadata"]["name"])
    await laptop.cluster.idle()
    assert not any(map(is_alive, pids))


@linux_only
async def test_when_the_first_process_ends_the_others_end_too(laptop: Laptop) -> None:
    script = """
        import subprocess, sys
        sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
        orphan = "import subprocess, sys; print(subprocess.Popen(%r, start_new_session=True).pid, flush=True)" % sleep
        print(subprocess.Popen(sleep, start_new_session=True).pid, flush=True)
        subprocess.run([sys.executable, "-c", orphan])
    """
    await laptop.run(script)
    (pod,) = await laptop.ended()
    pids = [int(pid) for pid in laptop.log(pod).split()]
    assert len(pids) == 2
    assert not any(map(is_alive, pids))


@linux_only
async def test_close_ends_every_pod(tmp_path: Path) -> None:
    laptop = Laptop(tmp_path)
    await laptop.cluster.start()
    await laptop.run("import os, time; print(os.getpid(), flush=True); time.sleep(60)", pods=2)
    pods = await laptop.until(is_running)
    pids = [int(await eventually(lambda pod=pod: laptop.log(pod))) for pod in pods]
    await laptop.cluster.close()
    assert not any(map(is_alive, pids))


@linux_only
async def test_a_pod_does_not_outlive_a_driver_that_was_killed(tmp_path: Path) -> None:
    script = f"""
        import asyncio
        from pathlib import Path
        from finetune_operator.local.cluster import LocalCluster
        from finetune_operator.local.processes import ProcessDriver
        from finetune_operator.protocol import JOBS

        async def main():
            cluster = LocalCluster(ProcessDriver({{}}, Path({str(tmp_path)!r})))
            cluster.add_namespace("lab")
            await cluster.start()
            sleep = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
            await cluster.create(JOBS, {job("task", "lab", "python3", "-c", "SCRIPT", pods=1)!r})
            await asyncio.sleep(60)

        asyncio.run(main())
    """
    script = textwrap.dedent(script).replace("'SCRIPT'", "sleep")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    operator = await asyncio.create_subprocess_exec(sys.executable, "-c", script, env=environment)
    log = await eventually(lambda: [p for p in tmp_path.glob("lab/*.log") if p.read_text().strip()])
    pid = int(log[0].read_text())
    assert is_alive(pid)
    operator.send_signal(signal.SIGKILL)
    await operator.wait()
    await eventually(lambda: not is_alive(pid))


async def test_a_machine_with_one_address_runs_one_pod_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_operator.local.addresses._can_bind", lambda address: False)
    laptop = Laptop(tmp_path)
    await laptop.cluster.start()
    await laptop.run("pass", pods=2)
    pods = await laptop.until(lambda pods: any(p["status"].get("reason") for p in pods))
    refused = next(pod for pod in pods if pod["status"].get("reason"))
    assert refused["status"]["reason"] == "OutOfAddresses"
    assert "one pod can run at a time: set resources.nodes to 1" in refused["status"]["message"]
    await laptop.cluster.close()


async def test_a_pod_is_asked_at_its_own_address(laptop: Laptop) -> None:
    script = """
        import http.server, os
        class Agent(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(302 if self.path == "/redirect" else 200)
                self.send_header("Location", "/status")
                self.end_headers()
                if self.path == "/endless":
                    while True:
                        self.wfile.write(b"x" * 1000)
                self.wfile.write(b"I am well")
            def log_message(self, *arguments):
                pass
        print("ready", flush=True)
        http.server.ThreadingHTTPServer((os.environ["IP"], 4322), Agent).serve_forever()
    """
    await laptop.run(
        script, container={"env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}, grace=0
    )
    (pod,) = await laptop.until(is_running)
    ask = laptop.cluster.pod_status
    async with asyncio.timeout(20):
        while (answer := await ask(pod, 4322, "/status", 100, 1)) is None:
            await asyncio.sleep(0.01)
    assert answer == b"I am well"
    assert await ask(pod, 4322, "/status", 8, 1) is None
    assert await ask(pod, 4322, "/endless", 10_000, 1) is None
    assert await ask(pod, 4322, "/redirect", 100, 1) is None
    assert await ask(pod, 4323, "/status", 100, 1) is None
