"""First process of a trainer pod: waits for rank 0, runs torchrun, answers for the pod, and says how it ended.

    python3 -m finetune_trainer.agent

Started by the operator, which sets the environment (`contract.ENV_*`). The exit code is the cause's
(`termination.py`), not torchrun's. Never imports torch.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Mapping

from finetune_trainer import agent_server, kubeflow_callback, launch, process_tree, termination
from finetune_trainer.cgroup import Cgroup
from finetune_trainer.contract import MAX_LOG_LINES, ExitCode, PodStatus, RunConfig, TerminationMessage
from finetune_trainer.errors import InvalidError, StoppedError, TrainingError
from finetune_trainer.rank_output import RankOutput
from finetune_trainer.redaction import Redact, redactor
from finetune_trainer.scratch import Scratch, write_atomically
from finetune_trainer.startup import Settings, check_workspace, read_run_config
from finetune_trainer.stop import Deadlines, StopRequest
from finetune_trainer.termination import End

logger = logging.getLogger("agent")

CONNECT_SECONDS = 2.0
RETRY_SECONDS = (0.2, 2.0)
"""First and longest pause between two attempts to reach rank 0: a thousand pods ask at once."""
REPORT_SECONDS = 10.0
SWEEP_SECONDS = 2.0
"""For what is left of the ranks' processes and output after torchrun's end."""


def wait_for_rank_zero(address: tuple[str, int], stop: StopRequest) -> None:
    """Return when its port answers: a name that resolves is not a port that answers. Without limit, for how long is
    too long is the operator's to say. Raises StoppedError."""
    host, port = address
    started = reported = time.monotonic()
    pause, longest = RETRY_SECONDS
    while not stop.requested:
        try:
            socket.create_connection(address, timeout=CONNECT_SECONDS).close()
        except OSError as error:
            now = time.monotonic()
            if now - reported >= REPORT_SECONDS:
                reported = now
                logger.info("waiting for rank 0 at %s:%d for %.0f s: %s", host, port, now - started, error)
            time.sleep(pause)
            pause = min(2 * pause, longest)
        else:
            return
    raise StoppedError(f"The pod was asked to stop while it waited for rank 0 at {host}:{port}.")


class Agent:
    """One life."""

    def __init__(
        self, settings: Settings, launcher: tuple[str, ...], module: str, cgroup: Cgroup, deadlines: Deadlines
    ) -> None:
        self.settings = settings
        self.scratch = Scratch(settings.paths.scratch)
        self.stop = StopRequest(self.scratch.stop_file, settings.grace, deadlines)
        self._launcher = launcher
        self._module = module
        self._cgroup = cgroup
        self._redact: Redact = redactor(os.environ)

    def live(self) -> int:
        """From start to end. Returns the exit code."""
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
            # No pod may end without a word, whatever went wrong in the agent itself.
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
        if self.stop.requested:  # the file of a request that came first was just removed
            self.scratch.stop_file.touch()

    def _train(self, config: RunConfig) -> tuple[End, RankOutput]:
        """Serve (until this process ends), wait, run torchrun, and observe how it ends."""
        settings = self.settings
        ranks = termination.ranks_of(config, settings.index)
        oom_kills = self._cgroup.oom_kills()
        agent_server.serve(
            settings.pod_ip, settings.port, lambda: self._status(config, ranks), self._request_checkpoint
        )
        if settings.index > 0:
            wait_for_rank_zero(settings.rendezvous, self.stop)
        if self.stop.requested:
            raise StoppedError("The pod was asked to stop before its training began.")
        environment = dict(os.environ)
        if settings.index == 0:
            receiver = kubeflow_callback.receive(self.scratch)
            environment |= kubeflow_callback.environment(environment, self.scratch, receiver.server_port)
        output = RankOutput(self.scratch.output, len(ranks), ranks.start, self._redact)
        cpus = self._cgroup.cpus() if settings.cpus is None else settings.cpus
        code = self._run_launcher(config, ranks, launch.environment(environment, config, cpus), output)
        output.close(SWEEP_SECONDS)
        return End(
            config=config,
            index=settings.index,
            launcher_code=code,
            time=time.time(),
            exits=self.scratch.exits(ranks),
            statuses={status.rank: status for status in self.scratch.statuses(ranks)},
            failed_first=termination.failed_first(output.launcher_lines(), ranks.start),
            oom_killed=self._cgroup.oom_kills() > oom_kills,
            killed_after=self.stop.enforced_after,
            checkpoint=self.scratch.checkpoint(),
        ), output

    def _run_launcher(self, config: RunConfig, ranks: range, environment: Mapping[str, str], output: RankOutput) -> int:
        """torchrun's exit code. Nothing that it started is left."""
        command = launch.command(
            self._launcher,
            config,
            self.settings.index,
            self.settings.rendezvous,
            self.scratch.output,
            self._module,
        )
        process_tree.become_subreaper()
        # Not subprocess.Popen: its own wait would race with the reaping of orphans.
        launcher = os.posix_spawn(
            command[0],
            command,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, output.launcher_stdout, 1),
                (os.POSIX_SPAWN_DUP2, output.launcher_stderr, 2),
            ],
            setpgroup=0,
        )
        self.stop.watch(launcher, lambda: termination.met(self.scratch.statuses(ranks)))
        code = process_tree.reap_until(launcher)
        self.stop.end_watch()
        process_tree.end_descendants(SWEEP_SECONDS)
        return code

    def _status(self, config: RunConfig, ranks: range) -> PodStatus:
        return PodStatus(
            pod_uid=self.settings.pod_uid,
            attempt=config.attempt,
            nonce=config.nonce,
            index=self.settings.index,
            ranks=self.scratch.statuses(ranks),
            progress=self.scratch.progress(),
            checkpoint=self.scratch.checkpoint(),
        )

    def _request_checkpoint(self, request: str) -> None:
        try:
            self.scratch.request_checkpoint(request)
        except OSError as error:
            logger.warning("a request for a checkpoint cannot be passed on: %s", error)

    @staticmethod
    def _log_of(rank: int | None, output: RankOutput) -> tuple[str, ...]:
        """The failing rank's last lines; torchrun's when the rank printed none."""
        return (output.last_lines(rank) if rank is not None else ()) or output.launcher_lines()[-MAX_LOG_LINES:]

    def _refuse(self, config: RunConfig | None, exit_code: int, error: str) -> int:
        message = refusal(self.settings, config, exit_code, self._redact(error))
        logger.error("exit code %d: %s", message.exit_code, message.error)
        self._leave(config, message, ())
        return exit_code

    def _leave(self, config: RunConfig | None, message: TerminationMessage, tail: tuple[str, ...]) -> None:
        """Write the last message. A failure to write it changes nothing about how the pod ended."""
        try:
            # In place: in a pod this is a mounted file, which cannot be replaced.
            self.settings.termination_log.write_text(message.fit(), encoding="utf-8")
        except (OSError, ValueError) as error:
            logger.warning("the termination message cannot be written: %s", error)
        self.stop.ignore()
        if config is None:
            return
        folder = self.settings.paths.run(config) / "attempts" / str(config.attempt)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            full = message.model_copy(update={"log": tail})
            write_atomically(folder / f"pod-{self.settings.index}.json", full.to_json())
        except OSError as error:
            logger.warning("the attempt's record cannot be written: %s", error)


def refusal(settings: Settings, config: RunConfig | None, exit_code: int, error: str) -> TerminationMessage:
    """The last message of a pod that saw no rank end. Without a configuration it knows neither its attempt (0) nor its
    nonce ("")."""
    return TerminationMessage(
        pod_uid=settings.pod_uid,
        index=settings.index,
        attempt=config.attempt if config else 0,
        nonce=config.nonce if config else "",
        exit_code=exit_code,
        error=error,
        error_time=time.time(),
    )


def main(
    launcher: tuple[str, ...] = launch.TORCHRUN,
    module: str = launch.RANK_MODULE,
    cgroup: Cgroup = Cgroup(),  # noqa: B008  # immutable
    deadlines: Deadlines = Deadlines(),  # noqa: B008
) -> int:
    """Live one life in this process. The arguments are for tests. Returns the exit code."""
    os.umask(0o002)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    try:
        settings = Settings.from_environment(os.environ)
    except InvalidError as error:
        logger.error("%s", error)
        return int(error.exit_code)
    return Agent(settings, launcher, module, cgroup, deadlines).live()


if __name__ == "__main__":
    sys.exit(main())
