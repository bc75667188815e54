"""Pods that a test moves: it schedules, runs, finishes and evicts them, and loses their node.

Pods change only when a test changes them. The one exception is a deleted pod: as on a real node, it ends with
`sigterm_exit_code` at once or, if that is None, is killed at the end of its grace period. With `automatic=True` new
pods are scheduled, one per node in turn, and run at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from finetune_operator.local import pods
from finetune_operator.local.driver import PodHost
from finetune_operator.protocol import PODS, Object

Answer = Callable[[Object, str], bytes | None]
"""A function that receives a pod and a path and returns what the pod's agent answers."""


class ScriptedDriver:
    """A `PodDriver` that starts no process.

    A pod may be given as any version of its object.
    """

    def __init__(
        self,
        *,
        automatic: bool = False,
        nodes: tuple[str, ...] = ("node-0", "node-1"),
        sigterm_exit_code: int | None = pods.SIGTERM_EXIT_CODE,
        answer: Answer | None = None,
    ) -> None:
        self.automatic = automatic
        self.sigterm_exit_code = sigterm_exit_code
        self.answer = answer
        self._nodes = nodes
        self._placed = count()
        self._addresses = count(1)
        self._lost: set[str] = set()
        self._kills: dict[str, asyncio.Task[None]] = {}
        self._host: PodHost

    # ---- actions of a test -------------------------------------------------------------------------------------------

    def unschedulable(self, pod: Object, message: str) -> None:
        """Report that no node has room for the pod."""
        self._change(pod, lambda current: pods.set_unschedulable(current, message, self._now()))

    def schedule(self, pod: Object, node: str | None = None) -> None:
        """Schedule the pod to the given node, or to the next one in turn."""
        chosen = node or self._nodes[next(self._placed) % len(self._nodes)]
        self._change(pod, lambda current: pods.set_scheduled(current, chosen, self._now()))

    def wait(self, pod: Object, reason: str, message: str) -> None:
        """Keep the container waiting for a reason such as ImagePullBackOff."""
        self._change(pod, lambda current: pods.set_waiting(current, reason, message, self._now()))

    def run(self, pod: Object) -> None:
        """Start the pod's container."""
        number = next(self._addresses)
        ip = f"10.0.{number // 250}.{number % 250}"
        self._change(pod, lambda current: pods.set_running(current, ip, self._now()))

    def finish(self, pod: Object, exit_code: int = 0, message: str = "", reason: str | None = None) -> None:
        """End the pod's container with this code and termination message; `reason` is that of `pods.set_finished`."""
        self._change(pod, lambda current: pods.set_finished(current, exit_code, message, self._now(), reason))
        if (current := self._current(pod)) and pods.is_terminating(current):
            self._host.remove_pod(current)

    def evict(self, pod: Object) -> None:
        """Evict the pod as `kubectl drain` does: set DisruptionTarget, then delete it."""
        why = ("EvictionByEvictionAPI", "Eviction API: evicting")
        self._change(pod, lambda current: pods.set_disrupted(current, *why, self._now()))
        self._delete(pod)

    def lose_node(self, node: str) -> None:
        """Cut the node off after its pods' toleration has passed: they stay terminating until the node returns."""
        self._lost.add(node)
        why = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
        for pod in self._on(node):
            self._change(pod, lambda current: pods.set_disrupted(current, *why, self._now()))
            self._delete(pod)

    def return_node(self, node: str) -> None:
        """Bring the node back; its terminating pods end."""
        self._lost.discard(node)
        for pod in self._on(node):
            if pods.is_terminating(pod):
                self._stop(pod)

    # ---- PodDriver ---------------------------------------------------------------------------------------------------

    async def start(self, host: PodHost) -> None:
        self._host = host

    async def close(self) -> None:
        kills = list(self._kills.values())
        for kill in kills:
            kill.cancel()
        await asyncio.gather(*kills, return_exceptions=True)

    def pod_added(self, pod: Object) -> None:
        if self.automatic:
            self.schedule(pod)
            self.run(pod)

    def pod_terminating(self, pod: Object) -> None:
        if pod["spec"]["nodeName"] not in self._lost:
            self._stop(pod)

    def pod_removed(self, pod: Object) -> None:
        kill = self._kills.pop(pod["metadata"]["uid"], None)
        if kill and kill is not asyncio.current_task():
            kill.cancel()

    async def fetch(self, pod: Object, port: int, path: str, limit: int, timeout: float) -> bytes | None:
        current = self._current(pod)
        if self.answer is None or current is None or pods.phase(current) != "Running":
            return None
        if current["spec"]["nodeName"] in self._lost:
            return None
        body = self.answer(current, path)
        return body if body is not None and len(body) <= limit else None

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._host.clock.now()

    def _current(self, pod: Object) -> Object | None:
        meta = pod["metadata"]
        current = self._host.peek(PODS, meta["namespace"], meta["name"])
        return current if current and current["metadata"]["uid"] == meta["uid"] else None

    def _on(self, node: str) -> list[Object]:
        return [pod for pod in self._host.all_pods() if pod["spec"].get("nodeName") == node]

    def _change(self, pod: Object, change: Callable[[Object], None]) -> None:
        self._host.update_pod(pod, change)

    def _delete(self, pod: Object) -> None:
        if current := self._current(pod):
            self._host.delete_pod(current)

    def _stop(self, pod: Object) -> None:
        """Stop the pod: SIGTERM now, SIGKILL at the end of the grace period."""
        if self.sigterm_exit_code is not None:
            self.finish(pod, self.sigterm_exit_code)
        else:
            self._kills[pod["metadata"]["uid"]] = asyncio.create_task(self._kill(pod))

    async def _kill(self, pod: Object) -> None:
        await self._host.clock.sleep(pods.grace_seconds(pod))
        self.finish(pod, pods.SIGKILL_EXIT_CODE)
