"""The operator as a process of this machine, and the resources that it uses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from types import TracebackType

import aiohttp

from finetune_operator.local.ports import free_port

IMAGE = "fake.example/trainer:none"
"""The image of the fake pods. It is never pulled."""
READY_WITHIN = 30.0
STOPS_WITHIN = 30.0
TICKS = os.sysconf("SC_CLK_TCK")


class OperatorProcess:
    """A context manager that runs `finetune operator` for one namespace, with a NetworkPolicy for each job."""

    def __init__(self, namespace: str, folder: Path) -> None:
        """Prepare the process. `folder` receives its configuration and its log."""
        self._namespace = namespace
        self._config = folder / "operator.yaml"
        self._log = folder / "operator.log"

    async def __aenter__(self) -> OperatorProcess:
        self._config.write_text("networkPolicy: {}\n")
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "finetune_operator.cli.main", "operator", "--namespace", self._namespace]
        command += ["--trainer-image", IMAGE, "--http-port", str(port), "--config", str(self._config)]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        try:
            async with asyncio.timeout(READY_WITHIN):
                while await self._get("/readyz") is None:
                    await asyncio.sleep(0.1)
        except BaseException as error:
            await self._stop()
            if isinstance(error, TimeoutError):
                last = self._log.read_text().splitlines()[-1:]
                raise TimeoutError(f"the operator was not ready in {READY_WITHIN:.0f} s: {' '.join(last)}") from None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def reconciles(self) -> int:
        """Return the number of successful reconciles so far."""
        lines = (await self._get("/metrics") or "").splitlines()
        series = 'finetune_reconcile_total{result="success"} '
        return next((int(float(line.removeprefix(series))) for line in lines if line.startswith(series)), 0)

    @property
    def cpu_seconds(self) -> float:
        """The CPU time used so far, user and system, of all threads."""
        fields = self._proc("stat").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def rss_mebibytes(self) -> float:
        """The current resident memory."""
        return self._memory("VmRSS")

    @property
    def peak_rss_mebibytes(self) -> float:
        """The highest resident memory so far."""
        return self._memory("VmHWM")

    async def _get(self, path: str) -> str | None:
        """Return the answer's text, or None if the status is not 200 or the request fails."""
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as session, session.get(self._url + path) as response:
                return await response.text() if response.status == 200 else None
        return None

    def _memory(self, name: str) -> float:
        line = next(line for line in self._proc("status").splitlines() if line.startswith(f"{name}:"))
        return int(line.split()[1]) / 1024

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self._process.pid}/{name}").read_text()

    async def _stop(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(STOPS_WITHIN):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
