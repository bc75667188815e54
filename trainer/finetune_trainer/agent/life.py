"""The first process of a trainer pod: starts the ranks, serves the pod's status, and reports how the pod ended.

    python3 -m finetune_trainer.agent

The operator starts it and sets its environment (`contract.ENV_*`). The exit code is that of the cause
(`termination.py`). This module must not import torch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Mapping

from finetune_trainer.agent import kubeflow_callback, launch, process_tree, termination
from finetune_trainer.agent import server as agent_server
from finetune_trainer.agent.cgroup import Cgroup
from finetune_trainer.agent.rank_output import RankOutput
from finetune_trainer.agent.rank_processes import STORE, RankProcesses
from finetune_trainer.agent.redaction import Redact, redactor
from finetune_trainer.agent.silence import Silence
from finetune_trainer.agent.start_watch import START_SECONDS, StartWatch
from finetune_trainer.agent.startup import Settings, check_workspace, read_run_config
from finetune_trainer.agent.stop import Deadlines, StopRequest
from finetune_trainer.agent.termination import End
from finetune_trainer.contract import (
    CONTRACT_VERSION,
    ExitCode,
    PodStatus,
    RunConfig,
    TerminationMessage,
    last_message_file,
)
from finetune_trainer.errors import InvalidError, StoppedError, TrainingError
from finetune_trainer.pod.scratch import Scratch, write_atomically

logger = logging.getLogger("agent")

SWEEP_SECONDS = 2.0
"""Seconds to wait for the remaining processes and output of ranks that have ended."""


class Agent:
    """The agent of one container, from its start to its end."""

    def __init__(
        self,
        settings: Settings,
        rank_module: str,
        store_module: str,
        cgroup: Cgroup,
        deadlines: Deadlines,
        start_seconds: float,
    ) -> None:
        self.settings = settings
        self.scratch = Scratch(settings.paths.scratch)
        self.stop = StopRequest(self.scratch.stop_file, settings.grace, deadlines)
        self._rank_module = rank_module
        self._store_module = store_module
        self._cgroup = cgroup
        self._start_seconds = start_seconds
        self._redact: Redact = redactor(os.environ)

    def live(self) -> int:
        """Run the agent from start to end and return the exit code."""
        self.stop.install()
        config: RunConfig | None = None
        try:
            self._prepare_scratch()
            config = read_run_config(self.settings.run_config)
            check_workspace(self.settings.paths.workspace)
            return self._conclude(*self._train(config))
        except TrainingError as error:
            return self._refuse(config, int(error.exit_code), str(error))
        except Exception as error:
            # Every pod must leave a termination message, even if the agent itself fails.
            logger.exception("the agent failed")
            sentence = f"The agent failed: {type(error).__name__}: {error}"
            return self._refuse(config, termination.INFRASTRUCTURE, sentence)

    def _conclude(self, end: End, output: RankOutput) -> int:
        cause = termination.cause_of(end)
        log = () if cause.exit_code == ExitCode.DONE else self._log_of(cause.rank, output)
        message = termination.message(end, cause, self.settings.pod_uid, log)
        if message.error:
            message = message.model_copy(update={"error": self._redact(message.error)})
            logger.error("exit code %d: %s", message.exit_code, message.error)
        self._leave(end.config, message, output.tail())
        return message.exit_code

    def _prepare_scratch(self) -> None:
        try:
            self.scratch.prepare()
        except OSError as error:
            sentence = f"The scratch folder {self.scratch.folder} cannot be written: {error.strerror}."
            raise InvalidError(sentence) from error
        if self.stop.requested:  # `prepare` has just removed the stop file of an earlier request
            self.scratch.stop_file.touch()

    def _train(self, config: RunConfig) -> tuple[End, RankOutput]:
        """Serve the pod's status until this process ends, run the ranks, and return how they ended."""
        settings = self.settings
        ranks = termination.ranks_of(config, settings.index)
        oom_kills = self._cgroup.oom_kills()
        agent_server.serve(
            settings.pod_ip, settings.port, lambda: self._status(config, ranks), self._request_checkpoint
        )
        if self.stop.requested:
            raise StoppedError("The pod was asked to stop before its training began.")
        environment = dict(os.environ)
        if settings.index == 0:
            receiver = kubeflow_callback.receive(self.scratch)
            environment |= kubeflow_callback.environment(environment, self.scratch, receiver.server_port)
        output = RankOutput(ranks, self._redact)
        cpus = self._cgroup.cpus() if settings.cpus is None else settings.cpus
        codes = self._run_ranks(config, ranks, launch.environment(environment, config, cpus), output)
        output.close(SWEEP_SECONDS)
        return End(
            config=config,
            index=settings.index,
            time=time.time(),
            codes={rank: code for rank, code in codes.items() if rank != STORE},
            store_code=codes.get(STORE),
            exits=self.scratch.exits(ranks),
            statuses={status.rank: status for status in self.scratch.statuses(ranks)},
            oom_killed=self._cgroup.oom_kills() > oom_kills,
            killed_after=self.stop.enforced_after,
            checkpoint=self.scratch.checkpoint(),
            facts=self.scratch.facts(),
        ), output

    def _run_ranks(
        self, config: RunConfig, ranks: range, environment: Mapping[str, str], output: RankOutput
    ) -> dict[int, int]:
        """Run the ranks, leave no process behind, and return the exit codes as `RankProcesses.wait` does."""
        settings = self.settings
        process_tree.become_subreaper()
        processes = RankProcesses()
        try:
            if settings.index == 0 and launch.needs_store(config):
                host, port = settings.rendezvous
                store = launch.command(self._store_module, f"{host}:{port}")
                processes.start(STORE, store, environment, output.writers(STORE))
            for local_rank, rank in enumerate(ranks):
                modules = self.scratch.modules / str(local_rank)
                place = launch.place(config, settings.index, local_rank, settings.rendezvous, modules)
                command = launch.command(self._rank_module)
                processes.start(rank, command, {**environment, **place}, output.writers(rank))
            self.stop.watch(processes, lambda: termination.met(self.scratch.statuses(ranks)))
            silence = Silence(self.scratch, config.patience.silent, processes.kill)
            with (
                StartWatch(ranks, self.scratch, processes, output, self._start_seconds),
                silence if config.world.size == 1 else contextlib.nullcontext(),
            ):
                return processes.wait()
        finally:
            self.stop.end_watch()
            processes.kill()
            process_tree.end_descendants(SWEEP_SECONDS)

    def _status(self, config: RunConfig, ranks: range) -> PodStatus:
        return PodStatus(
            pod_uid=self.settings.pod_uid,
            attempt=config.attempt,
            nonce=config.nonce,
            index=self.settings.index,
            ranks=self.scratch.statuses(ranks),
            progress=self.scratch.progress(),
            checkpoint=self.scratch.checkpoint(),
            facts=self.scratch.facts(),
            contract=CONTRACT_VERSION,
        )

    def _request_checkpoint(self, request: str) -> None:
        try:
            self.scratch.request_checkpoint(request)
        except OSError as error:
            logger.warning("a request for a checkpoint cannot be passed on: %s", error)

    @staticmethod
    def _log_of(rank: int | None, output: RankOutput) -> tuple[str, ...]:
        """Return the failing rank's last lines, or the store's if no rank failed by itself."""
        return output.last_lines(STORE if rank is None else rank)

    def _refuse(self, config: RunConfig | None, exit_code: int, error: str) -> int:
        message = refusal(self.settings, config, exit_code, self._redact(error))
        logger.error("exit code %d: %s", message.exit_code, message.error)
        self._leave(config, message, ())
        return exit_code

    def _leave(self, config: RunConfig | None, message: TerminationMessage, tail: tuple[str, ...]) -> None:
        """Write the termination message and the attempt's record. A failed write does not change how the pod ended."""
        try:
            # Not atomically: in a pod this is a mounted file, which cannot be replaced.
            self.settings.termination_log.write_text(message.fit(), encoding="utf-8")
        except (OSError, ValueError) as error:
            logger.warning("the termination message cannot be written: %s", error)
        self.stop.ignore()
        if config is None:
            return
        path = self.settings.paths.run(config) / last_message_file(config.attempt, self.settings.index)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            full = message.model_copy(update={"log": tail})
            write_atomically(path, full.to_json())
        except OSError as error:
            logger.warning("the attempt's record cannot be written: %s", error)


def refusal(settings: Settings, config: RunConfig | None, exit_code: int, error: str) -> TerminationMessage:
    """Return the termination message of a pod that saw no rank end.

    A pod without a configuration knows neither its attempt (0) nor its nonce ("").
    """
    return TerminationMessage(
        pod_uid=settings.pod_uid,
        index=settings.index,
        attempt=config.attempt if config else 0,
        nonce=config.nonce if config else "",
        exit_code=exit_code,
        error=error,
        error_time=time.time(),
        contract=CONTRACT_VERSION,
    )


def main(
    rank_module: str = launch.RANK_MODULE,
    store_module: str = launch.STORE_MODULE,
    cgroup: Cgroup = Cgroup(),  # noqa: B008  # immutable
    deadlines: Deadlines = Deadlines(),  # noqa: B008
    start_seconds: float = START_SECONDS,
) -> int:
    """Run the agent in this process and return the exit code. Only tests pass arguments."""
    os.umask(0o002)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    try:
        settings = Settings.from_environment(os.environ)
    except InvalidError as error:
        logger.error("%s", error)
        return int(error.exit_code)
    return Agent(settings, rank_module, store_module, cgroup, deadlines, start_seconds).live()
