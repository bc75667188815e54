"""What must be true after every write, no matter who wrote: derived from the objects alone, by independent rules.

The module repeats the table of the restart policy instead of importing it, so a change of the policy must be made here
too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from sim.history import History
from sim.loop import START
from sim.weather import Weather

from finetune_operator.constants import LABEL_ATTEMPT, LABEL_JOB, LABEL_POLICY, LABEL_RUN, RUN_CONFIG_KEY
from finetune_operator.core.times import from_text
from finetune_operator.local.store import Store
from finetune_operator.protocol import (
    CLAIMS,
    CONFIGMAPS,
    FINETUNEJOBS,
    JOBS,
    NETWORKPOLICIES,
    PODS,
    SERVICES,
    Event,
    Object,
    Resource,
)

COUNTED = {"Infrastructure", "Hung", "StartupTimeout", "Unknown"}
UNCOUNTED_IN_ROW = 20
ON_REQUEST = {"Suspended", "Edited"}
UNCOUNTED = ON_REQUEST | {"Preempted", "GangTimeout", "Superseded"}
NEVER_AGAIN = {"Invalid", "Diverged", "Mismatch", "Untrusted", "DeadlineExceeded", "Replaced"}
OUT_OF_MEMORY = "OutOfMemory"
ENDED = ("Failed", "Succeeded")
LOST = ("DeletionByTaintManager", "DeletionByPodGC")
DEADLINE = "DeadlineExceeded"
BY_TIME = {"GangTimeout": "gangMinutes", "StartupTimeout": "startupMinutes"}
"""The failure classes that time alone can cause, each with the field that sets the limit."""
MAX_STATUS_BYTES = 32 * 1024
FENCE = 60.0
"""Seconds that exceed any reconcile, also one with slow answers."""
SEEN = 1.0
"""Seconds after which an operator that gets fast answers knows how a pod ended."""
TOLD = 20.0
"""Seconds until a deleted child must exist again, if an operator was informed of the deletion."""
MISSED = 1200.0
"""Seconds until a deleted child must exist again, if no operator was informed of the deletion."""
OVERLAP = 60.0
"""Seconds for which a Job that an operator created too late may exist beside its successor."""


@dataclass
class Known:
    """A FineTuneJob and what the invariants know of it."""

    uid: str
    name: str
    specs: dict[int, Object] = field(default_factory=dict)
    """The specs, by generation."""
    status: Object = field(default_factory=dict)
    ledger: list[Object] = field(default_factory=list)
    """All entries so far, including those that the status no longer has."""
    jobs: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    """The UIDs of each attempt's Jobs, by run and attempt."""
    created: dict[str, float] = field(default_factory=dict)
    """The creation time of each Job, by UID."""
    live: dict[str, float] = field(default_factory=dict)
    """The UIDs of the Jobs that exist and have not ended, with the time of their creation."""
    configs: dict[int, Object] = field(default_factory=dict)
    """The recipe of each run's first attempt, by run."""
    worlds: dict[tuple[int, int], Object] = field(default_factory=dict)
    """The world, by run and the first attempt with that spec."""
    trained: set[int] = field(default_factory=set)
    """The runs for which the status has reported an attested world or a step."""
    ended: set[str] = field(default_factory=set)
    """The UIDs of the Jobs that somebody deleted, or of which a pod has ended or was deleted."""
    missing: dict[tuple[str, str], float] = field(default_factory=dict)
    """The time since when a child of the current attempt is missing, by the child's kind and the UID of the Job."""
    bad_nodes: dict[tuple[int, int], set[str]] = field(default_factory=dict)
    """The nodes with at least two counted failures of the run, by run and attempt."""
    rows: dict[tuple[int, int], int] = field(default_factory=dict)
    """The rows of the first forward passes, by run and the first attempt with that spec."""
    started: dict[int, int] = field(default_factory=dict)
    """The newest generation that each run has followed, by run."""
    suspended_since: float | None = None
    deleted_at: float | None = None
    suspensions: float = -1.0
    """The last time at which spec.suspend was true."""
    edited_at: float = -1.0


class Invariants:
    """Checks each write to the store; the first violation ends the schedule."""

    def __init__(
        self,
        store: Store,
        history: History,
        now: Callable[[], float],
        violated: Callable[[str], None],
        weather: Weather,
    ) -> None:
        self.known: dict[str, Known] = {}
        self._no_claim_since: dict[str, float] = {}
        self._store = store
        self._history = history
        self._now = now
        self._violated = violated
        self._weather = weather
        self._kept = weather.evidence_is_kept
        self._overlaps = weather.overlaps
        store.listen(self._see)

    def of(self, name: str) -> Known | None:
        """Return the newest job of that name."""
        return next((k for k in reversed(self.known.values()) if k.name == name and k.deleted_at is None), None)

    # ---- writes to the store -----------------------------------------------------------------------------------------

    def _see(self, resource: Resource, event: Event) -> None:
        if resource == FINETUNEJOBS:
            self._see_job(event)
        elif resource == CLAIMS and event.type == "DELETED":
            self._no_claim_since[event.object["metadata"]["name"]] = self._now()
        elif resource == PODS and (event.type == "DELETED" or event.object["status"]["phase"] in ENDED):
            uid = event.object["metadata"]["ownerReferences"][0]["uid"]
            for known in [k for k in self.known.values() if uid in k.created]:
                known.ended.add(uid)
        elif resource in (JOBS, CONFIGMAPS, SERVICES) and LABEL_JOB in event.object["metadata"].get("labels", {}):
            owner = next((o["uid"] for o in event.object["metadata"].get("ownerReferences", [])), "")
            known = self.known.get(owner)
            if event.type == "ADDED":
                self._expect(known is not None, "{} {} was made for nobody", resource.kind, event.object)
            if known:
                self._see_child(known, resource, event)

    def _see_job(self, event: Event) -> None:
        meta, spec = event.object["metadata"], event.object["spec"]
        known = self.known.setdefault(meta["uid"], Known(meta["uid"], meta["name"]))
        if event.type == "DELETED":
            known.deleted_at = self._now()
            return
        if meta["generation"] not in known.specs:
            known.specs[meta["generation"]] = spec
            known.edited_at = self._now()
            if not spec["suspend"]:
                known.suspended_since = None
            elif known.suspended_since is None:
                known.suspended_since = self._now()
        if spec["suspend"]:
            known.suspensions = self._now()
        old, new = known.status, event.object.get("status", {})
        if old is not new and old != new:
            known.status = new
            self._check_status(known, spec, old, new)

    def _see_child(self, known: Known, resource: Resource, event: Event) -> None:
        meta = event.object["metadata"]
        if LABEL_ATTEMPT not in meta["labels"]:
            return
        which = (int(meta["labels"][LABEL_RUN]), int(meta["labels"][LABEL_ATTEMPT]))
        if resource == JOBS and event.type == "ADDED":
            self._check_new_job(known, which, meta["uid"])
            if known.deleted_at is None:
                self._check_protection(event.object)
        elif resource == JOBS and (event.type == "DELETED" or _has_ended(event.object)):
            known.live.pop(meta["uid"], None)
            run = known.status.get("run")
            if event.type == "DELETED" and run and which == (run["number"], run["attempt"]):
                known.ended.add(meta["uid"])
        elif resource == CONFIGMAPS and event.type == "ADDED":
            config = json.loads(event.object["data"][RUN_CONFIG_KEY])
            recipe = {name: config[name] for name in ("task", "model", "dataset", "training", "folder")}
            plan = ("microBatchSize", "activationCheckpointing")
            run = known.status.get("run")
            current = run is not None and which == (run["number"], run["attempt"])
            if run is None or not current:
                return  # a late operator has created it
            spec = (which[0], run.get("specAttempt", 1))
            known.rows.setdefault(spec, recipe["training"]["microBatchSize"])
            recipe["training"] = {k: v for k, v in recipe["training"].items() if k not in plan}
            first = known.configs.setdefault(which[0], recipe)
            self._expect(first == recipe, "attempts of run {} of {} train different things", which[0], known.name)
            world = known.worlds.setdefault(spec, config["world"])
            self._expect(world == config["world"], "attempts of run {} of {} have different worlds", spec, known.name)

    # ---- attempts ----------------------------------------------------------------------------------------------------

    def _check_new_job(self, known: Known, which: tuple[int, int], uid: str) -> None:
        name, run = known.name, known.status.get("run")
        if known.deleted_at is not None:
            self._expect(self._now() - known.deleted_at < FENCE, "a Job for {} long after its deletion", name)
            return
        self._expect(run is not None, "a Job for {} before its status tells of a run", name)
        current = (run["number"], run["attempt"]) if run else (0, 0)
        stale = self._overlaps and which < current
        self._expect(
            which == current or stale, "a Job for {} of attempt {}, but its status has {}", name, which, current
        )
        again = which in known.jobs
        if again and not self._overlaps:
            self._expect("jobUid" not in (run or {}), "attempt {} of {} was made twice", which, name)
        if not self._overlaps:
            alive = [other for other in known.live if not self._is_ending(other)]
            self._expect(not alive, "attempt {} of {} while {} other Jobs are alive", which, name, len(alive))
        if run and not stale and "notBefore" in run:
            self._expect(self._now() + 1 > _seconds(run["notBefore"]), "attempt {} of {} came too early", which, name)
        if known.suspended_since is not None:
            self._expect(self._now() - known.suspended_since < FENCE, "a Job for {}, which is suspended", name)
        if run and not self._overlaps:
            self._check_claim(known, which, run)
            self._check_saved(known, which)
        known.jobs.setdefault(which, []).append(uid)
        known.live[uid] = known.created[uid] = self._now()

    def _check_claim(self, known: Known, which: tuple[int, int], run: Object) -> None:
        """Check that the claim exists and, if only one node can mount it, that no earlier attempt still uses it.

        A Job that was deleted before its UID was known is created again.
        """
        claim = self._store.get(CLAIMS, "default", run["claimName"])
        missing = self._now() - self._no_claim_since.get(run["claimName"], self._now())
        slow = self._weather.slow or self._weather.refusals
        self._expect(
            claim or missing < (FENCE if slow else SEEN), "attempt {} of {} starts without its claim", which, known.name
        )
        if claim is None or "ReadWriteMany" in claim["spec"]["accessModes"]:
            return
        holding = [
            pod["metadata"]["name"]
            for pod in self._pods_of(known.created.keys() - known.jobs.get(which, []))
            if pod["spec"].get("nodeName") and pod["status"]["phase"] in ("Pending", "Running")
        ]
        self._expect(not holding, "attempt {} of {}, while {} hold its claim", run["attempt"], known.name, holding)

    def _check_saved(self, known: Known, which: tuple[int, int]) -> None:
        """Check that no pod of the previous attempt may still be saving.

        A pod that has lost a sibling or its node saves nothing, because all ranks save together; a sibling also counts
        as lost if it has not ended by the end of its grace period, as on a node without power. The operator does not
        wait for pods whose Job was deleted.
        """
        before = known.jobs.get((which[0], which[1] - 1), [])
        if not before or not known.ledger or known.ledger[-1]["class"] in BY_TIME or known.ended.intersection(before):
            return
        there = self._pods_of(before)
        if any(c["type"] == "DisruptionTarget" and c["reason"] in LOST for p in there for c in _conditions(p)):
            return
        stopping = {
            pod["metadata"]["name"]: _seconds(pod["metadata"]["deletionTimestamp"]) - self._now()
            for pod in there
            if pod["status"]["phase"] == "Running" and "deletionTimestamp" in pod["metadata"]
        }
        saving = [] if any(left <= 0 for left in stopping.values()) else list(stopping)
        self._expect(not saving, "attempt {} of {} comes while {} may be saving", which, known.name, saving)

    def _check_protection(self, job: Object) -> None:
        """Check that the NetworkPolicy of the Job's pods exists before the Job."""
        template = job["spec"]["template"]["metadata"]
        policy = template["labels"].get(LABEL_POLICY)
        there = policy is None or self._store.get(NETWORKPOLICIES, "default", policy)
        self._expect(there, "{} comes before its NetworkPolicy", job["metadata"]["name"])

    def _pods_of(self, job_uids: Collection[str]) -> list[Object]:
        """Return the existing pods of these Jobs."""
        every = self._store.list(PODS, None)
        return [pod for pod in every if pod["metadata"]["ownerReferences"][0]["uid"] in job_uids]

    def _is_ending(self, job_uid: str) -> bool:
        """Return whether a pod of the Job has failed: the Job controller then stops the others and creates no more."""
        return any(pod["status"]["phase"] == "Failed" for pod in self._pods_of((job_uid,)))

    def check_time(self) -> None:
        """Check what no write shows: that Jobs end and that missing children are created again in time."""
        for known in self.known.values():
            if len(known.live) > 1 and self._now() - sorted(known.live.values())[1] > OVERLAP:
                self._violated(f"{len(known.live)} Jobs of {known.name} live side by side for {OVERLAP:.0f} s")
            ended = (known.status.get("run") or {}).get("completionTime")
            patience = OVERLAP * (10 if self._weather.refusals else 1)
            if known.live and ended and known.deleted_at is None and self._now() - _seconds(ended) > patience:
                self._violated(f"a Job of {known.name} lives on, though its run has ended")
            self._check_children(known)

    def _check_children(self, known: Known) -> None:
        """Check that children which the current attempt's pods need are created again soon after their deletion."""
        weather = self._weather
        told = self._kept and not (weather.refusals or weather.denials)
        missing = self._missing(known)
        known.missing = {child: known.missing.get(child, self._now()) for child in missing}
        for (kind, _), since in known.missing.items():
            late = self._now() - since > (TOLD if told else MISSED)
            self._expect(not late, "a {} of {} was deleted, and is not made again", kind, known.name)

    def _missing(self, known: Known) -> set[tuple[str, str]]:
        run = known.status.get("run")
        if run is None or known.deleted_at is not None or "completionTime" in run:
            return set()
        jobs = [job for job in self._store.list(JOBS, None) if job["metadata"]["uid"] == run.get("jobUid")]
        missing = set()
        for job in [job for job in jobs if job["metadata"]["uid"] in known.live]:
            name, there = job["metadata"]["name"], self._pods_of([job["metadata"]["uid"]])
            started = sum(pod["status"]["phase"] != "Pending" for pod in there)
            needed = {SERVICES: name, CONFIGMAPS: name if started < run["nodes"] else None}
            needed[NETWORKPOLICIES] = job["spec"]["template"]["metadata"]["labels"].get(LABEL_POLICY)
            gone = (kind for kind, name in needed.items() if name and not self._store.get(kind, "default", name))
            missing |= {(kind.kind, job["metadata"]["uid"]) for kind in gone}
        return missing

    def deleting(self, resource: Resource, namespace: str, name: str) -> None:
        """Check that the operator may delete this child."""
        job = self._store.get(resource, namespace, name) if resource == JOBS else None
        owner = next((o["uid"] for o in job["metadata"].get("ownerReferences", [])), "") if job else ""
        known = self.known.get(owner)
        if job is None or known is None:
            self._expect(job is None, "Job {}, which is not ours, is deleted", name)
            return
        run, labels = known.status.get("run"), job["metadata"]["labels"]
        if run is None or (int(labels[LABEL_RUN]), int(labels[LABEL_ATTEMPT])) != (run["number"], run["attempt"]):
            return
        ended = run.get("completionTime")
        self._expect(ended is not None, "the Job of {}'s attempt is deleted while it goes on", known.name)
        ttls = [s["ttlSecondsAfterFinished"] for s in known.specs.values() if "ttlSecondsAfterFinished" in s]
        over = ended and ttls and self._now() + 1 >= _seconds(ended) + min(ttls)
        another = max(known.specs) > known.started[run["number"]]
        self._expect(run.get("release") or over or another, "the Job of {} is deleted before its time", known.name)

    # ---- the status --------------------------------------------------------------------------------------------------

    def _check_status(self, known: Known, spec: Object, old: Object, new: Object) -> None:
        name = known.name
        size = len(json.dumps(new).encode())
        self._expect(size <= MAX_STATUS_BYTES, "the status of {} has {} bytes", name, size)
        true = {c["type"] for c in new.get("conditions", []) if c["status"] == "True"}
        self._expect(len(true & {"Ready", "Reconciling", "Stalled"}) <= 1, "{} is {}", name, true)
        refused = any(c["reason"] == "Refused" for c in new.get("conditions", []) if c["status"] == "True")
        self._expect(self._weather.denials or not refused, "{} is Refused, and nobody refused anything", name)
        told = (old.get("observedGeneration", -1), new.get("observedGeneration", -1))
        self._expect(told[0] <= told[1] <= max(known.specs), "{}: observed generation {}", name, told)
        before, after = old.get("run"), new.get("run")
        if after:
            self._check_run(known, before, after)
        entry = self._check_ledger(known, old, new)
        if after and ("WorldReady" in true or new.get("progress") or (entry and entry.get("step"))):
            known.trained.add(before["number"] if entry and before else after["number"])
        self._check_checkpoint(known, old, new)
        if entry:
            self._check_entry(known, spec, before, after, entry)
        elif before and after and (before["number"], before["attempt"]) != (after["number"], after["attempt"]):
            unmade = (before["number"], before["attempt"]) not in known.jobs or before.get("completionTime")
            self._expect(unmade, "attempt {} of {} ended and is not in the ledger", before["attempt"], name)
        if "Suspended" in true:
            self._check_suspended(known)

    def _check_run(self, known: Known, before: Object | None, after: Object) -> None:
        was = (before["number"], before["attempt"]) if before else (0, 0)
        now = (after["number"], after["attempt"])
        follows = now == was or now == (was[0], was[1] + 1) or now == (was[0] + 1, 1)
        self._expect(follows, "{}: attempt {} after {}", known.name, now, was)
        if after["number"] not in known.started or "completionTime" not in after:
            known.started[after["number"]] = after["generation"]
        if uid := after.get("jobUid"):
            self._expect(uid in known.jobs.get(now, []), "{}: attempt {} took Job {} for its own", known.name, now, uid)

    def _check_ledger(self, known: Known, old: Object, new: Object) -> Object | None:
        """Check the ledger and return its new entry, if there is one."""
        before, after = old.get("ledger", []), new.get("ledger", [])
        dropped = new.get("ledgerDropped", 0)
        every = dropped + len(after)
        grown = every - len(known.ledger)
        self._expect(
            grown in (0, 1) and dropped >= old.get("ledgerDropped", 0), "{}'s ledger grew by {}", known.name, grown
        )
        kept = [{**e, "log": []} for e in known.ledger[dropped:]]
        same = [{**e, "log": []} for e in after[: len(kept)]]
        self._expect(kept == same, "{}'s ledger has changed: {} to {}", known.name, before, after)
        if grown != 1:
            return None
        entry: Object = after[-1]
        which = (entry["run"], entry["attempt"])
        twice = any((e["run"], e["attempt"]) == which for e in known.ledger)
        self._expect(not twice, "attempt {} is twice in {}'s ledger", which, known.name)
        known.ledger.append(entry)
        return entry

    def _check_entry(
        self, known: Known, spec: Object, before: Object | None, after: Object | None, entry: Object
    ) -> None:
        name, what = known.name, entry["class"]
        which = (entry["run"], entry["attempt"])
        self._expect(before and which == (before["number"], before["attempt"]), "{}: an entry of {}", name, which)
        if not before or not after:
            return
        goes_on = after["attempt"] == before["attempt"] + 1
        ended = "completionTime" in after and after["attempt"] == before["attempt"]
        self._expect(goes_on != ended, "{}: attempt {} neither ended nor went on", name, which)
        self._check_truth(known, spec, which, entry)
        if goes_on:
            self._check_next(known, spec, before, after, entry)
        if what == "Success":
            self._expect(ended, "{}: an attempt after a success", name)
            return
        self._expect(entry.get("counted", False) == (what in COUNTED), "{}: {} is counted wrongly", name, what)
        if what in NEVER_AGAIN:
            self._expect(ended, "{}: an attempt after {}", name, what)
        elif what == OUT_OF_MEMORY:
            spec_of_run = (before["number"], before.get("specAttempt", 1))
            rows = [run.get("microBatchSize", known.rows[spec_of_run]) for run in (before, after)]
            computes = [run.get("activationCheckpointing", False) for run in (before, after)]
            smaller = (rows[1] < rows[0] and computes[0] == computes[1]) or (
                rows[0] == rows[1] and computes[1] > computes[0]
            )
            smallest = rows[0] == 1 and computes[0]
            self._expect(ended or smaller, "{}: an attempt as large as before after {}", name, what)
            self._expect(goes_on or smallest, "{}: no smaller attempt after {}", name, what)
        elif what in COUNTED:
            self._check_budget(known, spec, after, entry, goes_on)
        else:
            may_end = before.get("uncountedInRow", 0) >= UNCOUNTED_IN_ROW and what not in {"GangTimeout", *ON_REQUEST}
            self._expect(what in UNCOUNTED and (goes_on or may_end), "{}: no attempt after {}", name, what)

    def _check_next(self, known: Known, spec: Object, before: Object, after: Object, entry: Object) -> None:
        """Check what the next attempt inherits from the previous ones."""
        name, what, newest = known.name, entry["class"], known.status.get("checkpoint", {}).get("step")
        self._expect(after.get("checkpointStep") == newest, "{}: an attempt does not go on from {}", name, newest)
        in_row = before.get("uncountedInRow", 0)
        if what in UNCOUNTED and what != "GangTimeout":
            progressed = (newest or 0) > before.get("checkpointStep", 0)
            in_row = (0 if progressed else in_row) + (what not in ON_REQUEST)
        elif what not in UNCOUNTED:
            in_row = 0
        told = after.get("uncountedInRow", 0)
        self._expect(told == in_row, "{}: {} uncounted in a row after {}, and not {}", name, told, what, in_row)
        now, window = _seconds(entry["endTime"]), spec["faultTolerance"]["windowMinutes"] * 60
        nodes = [
            e.get("node")
            for e in known.ledger
            if e["run"] == entry["run"] and e.get("counted") and now - _seconds(e["endTime"]) < window - 2
        ]
        which = (after["number"], after["attempt"])
        known.bad_nodes[which] = {node for node in nodes if node and nodes.count(node) > 1}

    def placing(self, pod: Object, node: str, others: Collection[str]) -> None:
        """Check that a node with two failures is chosen only if all other free nodes have two as well."""
        owner = pod["metadata"]["ownerReferences"][0]["uid"]
        for known in [k for k in self.known.values() if owner in k.created]:
            which = next(w for w, uids in known.jobs.items() if owner in uids)
            bad = known.bad_nodes.get(which, set())
            right = node not in bad or all(other in bad for other in others)
            self._expect(right, "attempt {} of {} is on {}, which is bad", which, known.name, node)

    def _check_checkpoint(self, known: Known, old: Object, new: Object) -> None:
        """Check that the checkpoint is the newest one that rank 0 has reported, and never goes back."""
        before, after = old.get("run"), new.get("run")
        if not after:
            return
        was, step = (status.get("checkpoint", {}).get("step", 0) for status in (old, new))
        uids = [uid for which, made in known.jobs.items() if which[0] == after["number"] for uid in made]
        told = max((self._history.checkpoints[uid] for uid in uids), default=0)
        self._expect(step <= told, "{}: a checkpoint of step {}, and {} was told", known.name, step, told)
        if not before or before["number"] != after["number"]:
            return
        self._expect(was <= step, "{}: the checkpoint of step {} is one of {}", known.name, was, step)
        ended = before["attempt"] != after["attempt"] or ("completionTime" in after) > ("completionTime" in before)
        uid = before.get("jobUid", "")
        since, last = self._history.last_checkpoints.get(uid, (self._now(), 0))
        if ended and self._kept and not self._weather.slow and self._now() - since > SEEN:
            self._expect(step == last, "{}: the last checkpoint was of step {}, not {}", known.name, last, step)

    def _check_budget(self, known: Known, spec: Object, after: Object, entry: Object, goes_on: bool) -> None:
        tolerance, now = spec["faultTolerance"], _seconds(entry["endTime"])
        window = tolerance["windowMinutes"] * 60
        ages = [now - _seconds(e["endTime"]) for e in known.ledger if e["run"] == entry["run"] and e.get("counted")]
        if any(abs(age - window) < 2 for age in ages):
            return  # times are rounded to whole seconds
        failures = sum(age < window for age in ages)
        within = failures <= tolerance["maxRestarts"]
        self._expect(within == goes_on, "{}: after {} failures of {} the run {}", known.name, failures,
                     tolerance["maxRestarts"], "goes on" if goes_on else "ends")  # fmt: skip
        if not goes_on:
            return
        wait = _seconds(after["notBefore"]) - now if "notBefore" in after else 0
        full = 0 if failures < 2 else min(300, 10 * 2 ** (failures - 2))
        self._expect(
            full * 0.5 - 1 <= wait <= full * 1.5 + 1,
            "{}: a delay of {} s after {} failures",
            known.name,
            wait,
            failures,
        )

    def _check_truth(self, known: Known, spec: Object, which: tuple[int, int], entry: Object) -> None:
        """Check that the class is one that the simulation has caused."""
        what, uids = entry["class"], known.jobs.get(which, [])
        if what == "Success":
            nodes = set(range(known.status["run"]["nodes"]))
            self._expect(
                any(self._history.attested[uid] == nodes for uid in uids),
                "{}: a success, but of {} pods only {} ended well", known.name, len(nodes), uids,
            )  # fmt: skip
            return
        if entry["message"].startswith("a rank is silent"):
            cut: set[str] = set().union(*(self._history.silenced.get(uid, set()) for uid in uids))
            right = "node" not in entry or entry["node"] in cut
            self._expect(right, "{}: {} blames {} and not {}", known.name, which, entry.get("node"), cut)
        since, tolerance = _seconds(entry["startTime"]), spec["faultTolerance"]
        allowed = {name for name, minutes in BY_TIME.items() if self._is_over(since, tolerance[minutes])}
        if self._is_late(known, spec, which, entry):
            allowed.add(DEADLINE)
        for uid in uids:
            allowed |= self._history.classes[uid]
        if known.suspensions >= since:
            allowed.add("Suspended")
        if known.edited_at >= 0:
            allowed.add("Replaced")
            if which[0] not in known.trained:
                allowed.add("Edited")
            elif "before training began" in entry["message"]:
                allowed.discard("Replaced")
        if not self._kept:
            allowed |= {"Unknown", "Preempted"}
        self._expect(
            what in allowed, "{}: {} is called {}, but it was one of {}", known.name, which, what, sorted(allowed)
        )

    def _is_late(self, known: Known, spec: Object, which: tuple[int, int], entry: Object) -> bool:
        """Return whether a deadline has passed.

        The time in the queue begins with the attempt's Job, and does not run while the FineTuneJob is suspended.
        """
        tolerance = spec["faultTolerance"]
        if "no pod had a node" in entry["message"]:
            created = min((known.created[uid] for uid in known.jobs.get(which, [])), default=self._now())
            over = "queueMinutes" in tolerance and self._is_over(created, tolerance["queueMinutes"])
            return over and not spec["suspend"]
        began = min(_seconds(e["startTime"]) for e in known.ledger if e["run"] == which[0])
        return "activeMinutes" in tolerance and self._is_over(began, tolerance["activeMinutes"])

    def _is_over(self, since: float, minutes: int) -> bool:
        """Return whether the time has passed, with a tolerance because times are rounded to whole seconds."""
        return self._now() - since >= minutes * 60 - 2

    def _check_suspended(self, known: Known) -> None:
        there = self._pods_of(known.created)
        holding = [pod["metadata"]["name"] for pod in there if pod["status"]["phase"] in ("Pending", "Running")]
        self._expect(not holding, "{} is Suspended, but {} are there", known.name, holding)

    def _expect(self, truth: object, text: str, *words: Any) -> None:
        if not truth:
            self._violated(text.format(*words))


def _conditions(obj: Object) -> list[Object]:
    found: list[Object] = obj.get("status", {}).get("conditions", [])
    return found


def _has_ended(job: Object) -> bool:
    ends = {"FailureTarget", "SuccessCriteriaMet"}
    return any(c["type"] in ends and c["status"] == "True" for c in job.get("status", {}).get("conditions", []))


def _seconds(text: str) -> float:
    """Return the seconds since the schedule began."""
    return from_text(text).timestamp() - START
