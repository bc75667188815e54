"""Nodes, their scheduler, and the programs in their pods; a node has room for one pod.

The programs of a gang save a checkpoint regularly and when they are stopped. The run's next gang continues from the
newest checkpoint.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sim import fates
from sim.fates import Failure, Fate
from sim.history import History
from sim.weather import Trace
from support.clusters import RESULT, index_of
from support.scripted import ScriptedDriver

from finetune_operator.constants import LABEL_JOB_NAME, RUN_CONFIG_KEY
from finetune_operator.local import pods
from finetune_operator.protocol import CONFIGMAPS, SERVICES, Object
from finetune_trainer.contract import (
    CheckpointReport,
    FailureClass,
    Phase,
    PodStatus,
    Progress,
    RankStatus,
    RunConfig,
    TerminationMessage,
)

STEP = 2.0
"""Seconds for one step."""
STEPS_OF_A_CHECKPOINT = 15
SILENCE = 15.0
"""Seconds after which the ranks of a gang report that one of them is silent."""
LOOK = 5.0
"""Seconds between two checks for a missing object."""


@dataclass
class Gang:
    """The pods of one Job."""

    fate: Fate
    loading: float
    training: float
    saving: float
    """Seconds for one checkpoint."""
    began: float | None = None
    """When the gang began to train, in seconds since the epoch."""
    begins_with: int = 0
    """The step at which the gang began."""
    checkpoint: CheckpointReport | None = None
    """The newest checkpoint that the gang knows of."""
    joined: set[int] = field(default_factory=set)
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def step(self, now: float) -> int:
        """Return the step that the gang has reached."""
        trained = 0.0 if self.began is None else min(now - self.began, self.training)
        return self.begins_with + int(trained / STEP)


@dataclass
class Program:
    """The program in a pod."""

    pod: Object
    gang: Gang
    index: int
    config: RunConfig
    phase: Phase = Phase.INIT
    attests: bool = False


class Machines(ScriptedDriver):
    """A pod driver whose pods live and end by themselves."""

    def __init__(self, chance: random.Random, history: History, trace: Trace, nodes: int) -> None:
        super().__init__(answer=self._answer_of)
        self.troubled = True
        """Whether gangs that start now may fail."""
        self.nodes = [f"node-{number}" for number in range(nodes)]
        self.cut: set[str] = set()
        """The nodes without power."""
        self.broken = self.nodes[0] if chance.random() < 0.25 else None
        """A node on which every program crashes."""
        self.placing: Callable[[Object, str, list[str]], None] = lambda pod, node, others: None
        """Called for each pod with the node that the scheduler has chosen and the other free nodes."""
        self._chance = chance
        self._history = history
        self._trace = trace
        self._gangs: dict[str, Gang] = {}
        self._programs: dict[str, Program] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._volume: dict[str, CheckpointReport] = {}
        """The newest checkpoint of each run, by its folder."""
        self._scheduling: asyncio.TimerHandle | None = None

    # ---- nodes -------------------------------------------------------------------------------------------------------

    def cut_off(self, node: str) -> None:
        """Cut the node's power; the cluster notices it later."""
        self._trace.say("{} loses power", node)
        self.cut.add(node)
        for pod in self._on(node):
            if program := self._programs.get(pod["metadata"]["uid"]):
                asyncio.get_running_loop().call_later(SILENCE, self._survive, program, node)
            self._end_life(pod)
            self._note(pod, FailureClass.PREEMPTED, FailureClass.INFRASTRUCTURE)

    def _survive(self, lost: Program, node: str) -> None:
        """End the other pods of a gang that trained.

        Their messages name the silent rank, or only report that one is silent.
        """
        gone, uid = lost.pod["metadata"]["uid"], pods.controller_uid(lost.pod) or ""
        there = any(pod["metadata"]["uid"] == gone and not pods.is_finished(pod) for pod in self._on(node))
        siblings = [p for p in self._programs.values() if p.gang is lost.gang and p.phase is Phase.TRAIN]
        if not there or node not in self.cut or lost.phase is not Phase.TRAIN:
            return
        says_which = self._chance.random() < 0.6
        for sibling in siblings:
            self._history.silenced.setdefault(uid, set()).add(node)
            code = 79 if says_which else 1
            told = {"slowest_rank": lost.index, "error_time": self._now()} if says_which else {}
            word = self._word(sibling, code).model_copy(update={"error": "a rank is silent", **told})
            self._note(sibling.pod, FailureClass.HUNG if says_which else FailureClass.INFRASTRUCTURE)
            self._finish(sibling, code, word)
            self._end_life(sibling.pod)

    def notice(self, node: str) -> None:
        """Delete the node's pods, because their toleration has passed."""
        if node in self.cut:
            self._trace.say("the pods of {} are deleted", node)
            self.lose_node(node)

    def power_on(self, node: str) -> None:
        """Give the node its power back; what ran there has been killed."""
        self._trace.say("{} is back", node)
        self.cut.discard(node)
        for pod in self._on(node):
            if not pods.is_finished(pod) and not pods.is_terminating(pod):
                self.finish(pod, pods.SIGKILL_EXIT_CODE)
        self.return_node(node)
        self.schedule_soon()

    # ---- the scheduler -----------------------------------------------------------------------------------------------

    def schedule_soon(self) -> None:
        """Schedule all waiting pods a moment later, in random order."""
        if self._scheduling is None:
            self._scheduling = asyncio.get_running_loop().call_later(0.5 * self._chance.random(), self._schedule)

    def _schedule(self) -> None:
        self._scheduling = None
        every = self._host.all_pods()
        taken = {p["spec"].get("nodeName") for p in every if not pods.is_finished(p)}
        free = [node for node in self.nodes if node not in taken and node not in self.cut]
        waiting = [p for p in every if not p["spec"].get("nodeName") and not pods.is_terminating(p)]
        self._chance.shuffle(waiting)
        for pod in waiting:
            if not free:
                self.unschedulable(pod, f"0/{len(self.nodes)} nodes are available: too many pods")
                continue
            avoided = _avoided(pod)
            node = self._chance.choice([node for node in free if node not in avoided] or free)
            free.remove(node)
            self.placing(pod, node, free)
            self.schedule(pod, node)
            uid = pod["metadata"]["uid"]
            self._lives[uid] = asyncio.get_running_loop().create_task(self._live(pod, node))

    # ---- PodDriver ---------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        await super().close()
        for life in self._lives.values():
            life.cancel()

    def pod_added(self, pod: Object) -> None:
        self.schedule_soon()

    def pod_terminating(self, pod: Object) -> None:
        if pod["spec"]["nodeName"] not in self.cut:
            super().pod_terminating(pod)

    def pod_removed(self, pod: Object) -> None:
        super().pod_removed(pod)
        self._end_life(pod)
        self.schedule_soon()

    def _stop(self, pod: Object) -> None:
        """Send SIGTERM: most agents soon write a termination message; others are killed after the grace period."""
        uid = pod["metadata"]["uid"]
        program = self._programs.get(uid)
        self._end_life(pod)
        if program is None:
            self._host.remove_pod(pod)
            return
        obeys = self._chance.random() < 0.8
        delay = 15 * self._chance.random() ** 2 if obeys else pods.grace_seconds(pod)
        self._lives[uid] = asyncio.get_running_loop().create_task(self._stopped(program, delay, obeys))

    async def _stopped(self, program: Program, delay: float, obeys: bool) -> None:
        await asyncio.sleep(delay)
        if obeys:
            self._save(program, now=True)
            self._finish(program, 75, self._word(program, 75))
        else:
            self._finish(program, pods.SIGKILL_EXIT_CODE, "")

    # ---- programs ----------------------------------------------------------------------------------------------------

    async def _live(self, pod: Object, node: str) -> None:
        """Run a pod from the pull of its image to its end."""
        meta = pod["metadata"]
        gang = self._gang(pod)
        fate = gang.fate if gang.fate.index == index_of(pod) else Fate()
        if node == self.broken:
            fate = Fate(fates.COMMON, index_of(pod), "load")
        await asyncio.sleep(1 + 5 * self._chance.random())
        if fate.failure is fates.NO_IMAGE:
            self.wait(pod, "ImagePullBackOff", "no such image")
            self._note(pod, FailureClass.STARTUP_TIMEOUT)
            await asyncio.get_running_loop().create_future()
        while (config := self._host.peek(CONFIGMAPS, meta["namespace"], meta["labels"][LABEL_JOB_NAME])) is None:
            self.wait(pod, "ContainerCreating", "configmap not found")
            self._note(pod, FailureClass.STARTUP_TIMEOUT)
            await asyncio.sleep(LOOK)
        self.run(pod)
        run_config = RunConfig.model_validate_json(config["data"][RUN_CONFIG_KEY])
        program = Program(pod, gang, index_of(pod), run_config)
        self._programs[meta["uid"]] = program
        await self._work(program, fate)

    async def _work(self, program: Program, fate: Fate) -> None:
        gang, config, meta = program.gang, program.config, program.pod["metadata"]
        if await self._fails(program, fate, "start", 2):
            return
        program.phase = Phase.LOAD
        if fate.failure is fates.SILENT:
            self._note(program.pod, FailureClass.STARTUP_TIMEOUT)
            await asyncio.get_running_loop().create_future()
        if await self._fails(program, fate, "load", gang.loading):
            return
        while program.index and self._host.peek(SERVICES, meta["namespace"], meta["labels"][LABEL_JOB_NAME]) is None:
            self._note(program.pod, FailureClass.STARTUP_TIMEOUT)
            await asyncio.sleep(LOOK)
        gang.joined.add(program.index)
        if len(gang.joined) == config.world.nodes:
            self._begin(gang, config.folder)
        await gang.complete.wait()
        program.attests, program.phase = True, Phase.TRAIN
        if await self._fails(program, fate, "train", gang.training):
            return
        program.phase = Phase.EXPORT
        if await self._fails(program, fate, "end", 3 * self._chance.random()):
            return
        self._finish(program, 0, self._word(program, 0))
        self._history.attested[pods.controller_uid(program.pod) or ""].add(program.index)

    async def _fails(self, program: Program, fate: Fate, when: str, seconds: float) -> bool:
        """Wait for one part of a program's life; return whether the program failed in it."""
        ends_here = fate.failure is not None and fate.when == when
        await asyncio.sleep(seconds * (self._chance.random() if ends_here else 1))
        if ends_here and fate.failure:
            self._fail(program, fate, fate.failure)
        return ends_here

    def _fail(self, program: Program, fate: Fate, failure: Failure) -> None:
        self._trace.say("{} ends: {}", program.pod["metadata"]["name"], failure.name)
        self._note(program.pod, failure.failure)
        if failure.failure is FailureClass.PREEMPTED:
            self._save(program, now=True)
        if failure.failure is FailureClass.MISMATCH:
            # If another pod then fails by itself, the others fail with it, and the pod that ended too early is not the
            # cause.
            self._note(program.pod, FailureClass.STARTUP_TIMEOUT)
        if fate.symptoms and failure.exit_code and failure.word == "full" and program.phase != Phase.INIT:
            for sibling in [p for p in self._programs.values() if p.gang is program.gang and p is not program]:
                heard = self._word(sibling, 1).model_copy(update={"error": "connection reset by peer"})
                self._finish(sibling, 1, heard)
                self._end_life(sibling.pod)
        self._finish(program, failure.exit_code, self._last_word(program, failure), failure.reason)

    def _last_word(self, program: Program, failure: Failure) -> TerminationMessage | str:
        word = self._word(program, failure.exit_code)
        told = {"error": failure.name, "error_time": self._now()} if failure.exit_code else {}
        changes: dict[str, dict[str, object]] = {
            "unattested": {"world": None, "config_digest": None, "result": None},
            "wrong world": {"world": word.world + 1 if word.world else 1},
            "no result": {"result": None},
        }
        if failure.word in ("none", "nonsense"):
            return "" if failure.word == "none" else '{"nonsense": '
        return word.model_copy(update=told | changes.get(failure.word, {}))

    def _word(self, program: Program, exit_code: int) -> TerminationMessage:
        config = program.config
        self._save(program)
        return TerminationMessage(
            pod_uid=program.pod["metadata"]["uid"],
            index=program.index,
            attempt=config.attempt,
            nonce=config.nonce,
            exit_code=exit_code,
            world=config.world.size if program.attests or not exit_code else None,
            config_digest=config.digest if program.attests or not exit_code else None,
            step=program.gang.step(self._now()),
            checkpoint=program.gang.checkpoint if program.index == 0 else None,
            result=RESULT if program.index == 0 and exit_code == 0 else None,
            log=("step 1", "step 2"),
        )

    def _finish(
        self, program: Program, exit_code: int, word: TerminationMessage | str, reason: str | None = None
    ) -> None:
        self._programs.pop(program.pod["metadata"]["uid"], None)
        if isinstance(word, TerminationMessage) and word.checkpoint:
            job_uid = pods.controller_uid(program.pod) or ""
            self._history.checkpoints[job_uid] = word.checkpoint.step
            self._history.last_checkpoints[job_uid] = (asyncio.get_running_loop().time(), word.checkpoint.step)
        self.finish(program.pod, exit_code, word if isinstance(word, str) else word.fit(), reason)
        self.schedule_soon()

    def _answer_of(self, pod: Object, path: str) -> bytes | None:
        program = self._programs.get(pod["metadata"]["uid"])
        if program is None or pod["spec"]["nodeName"] in self.cut:
            return None
        config, gang, step = program.config, program.gang, program.gang.step(self._now())
        tells = program.attests and program.index == 0
        self._save(program)
        if tells and gang.checkpoint:
            self._history.checkpoints[pods.controller_uid(pod) or ""] = gang.checkpoint.step
        rank = RankStatus(
            rank=program.index,
            world=config.world.size,
            config_digest=config.digest,
            backend="gloo",
            zero_stage=config.zero_stage,
            phase=program.phase,
            step=step,
            heartbeat=self._now(),
        )
        return PodStatus(
            pod_uid=pod["metadata"]["uid"],
            attempt=config.attempt,
            nonce=config.nonce,
            index=program.index,
            ranks=(rank,) if program.attests else (),
            progress=Progress(step=step, total_steps=1000, epoch=0.1, step_seconds=STEP) if tells else None,
            checkpoint=gang.checkpoint if tells else None,
        ).to_json().encode()  # fmt: skip

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _begin(self, gang: Gang, folder: str) -> None:
        """Begin to train from the newest checkpoint, now that all pods have joined."""
        for program in [p for p in self._programs.values() if p.config.folder == folder]:
            self._save(program)
        gang.checkpoint = self._volume.get(folder)
        gang.begins_with = gang.checkpoint.step if gang.checkpoint else 0
        gang.began = self._now()
        gang.complete.set()

    def _save(self, program: Program, now: bool = False) -> None:
        """Save rank 0's latest regular checkpoint; with `now`, also one at the current step, as on SIGTERM."""
        gang = program.gang
        if program.index or gang.began is None:
            return
        step = gang.step(self._now())
        if not now or program.phase is not Phase.TRAIN:
            step -= (step - gang.begins_with) % STEPS_OF_A_CHECKPOINT
        if step > (gang.checkpoint.step if gang.checkpoint else 0):
            gang.checkpoint = CheckpointReport(step=step, time=self._now(), bytes=1, save_seconds=gang.saving)
            known = self._volume.get(program.config.folder)
            if known is None or known.step < step:
                self._volume[program.config.folder] = gang.checkpoint

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def _gang(self, pod: Object) -> Gang:
        uid = pods.controller_uid(pod) or ""
        if uid not in self._gangs:
            nodes = 1 + max(index_of(p) for p in self._host.all_pods() if pods.controller_uid(p) == uid)
            fate = fates.drawn(self._chance, nodes) if self.troubled else Fate()
            times = (5 + 20 * self._chance.random(), 20 + 200 * self._chance.random(), 20 * self._chance.random())
            self._gangs[uid] = Gang(fate, *times)
        return self._gangs[uid]

    def _end_life(self, pod: Object) -> None:
        if program := self._programs.pop(pod["metadata"]["uid"], None):
            self._save(program)
        life = self._lives.pop(pod["metadata"]["uid"], None)
        if life and life is not asyncio.current_task():
            life.cancel()

    def _note(self, pod: Object, *classes: FailureClass) -> None:
        self._history.happened(pods.controller_uid(pod), *classes)


def _avoided(pod: Object) -> set[str]:
    """Return the names of the nodes that the pod's affinity avoids."""
    nodes = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    terms = nodes.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    fields = [field for term in terms for field in term["preference"]["matchFields"]]
    return {node for field in fields if field["operator"] == "NotIn" for node in field["values"]}
