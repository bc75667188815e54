"""Builds the Indexed Job of an attempt: one pod per node, none of them ever restarted by Kubernetes.

`backoffLimit` is 0 because restarting is the operator's decision: only the operator knows the class of a failure. Pods
meet the restricted Pod Security Standard: no privileges, no service-account token, a read-only root file system.
"""

from __future__ import annotations

from finetune_operator import constants
from finetune_operator.api.quantity import parse_quantity
from finetune_operator.api.v1alpha1 import FineTuneJobSpec, RunStatus
from finetune_operator.core.run.naming import rendezvous_host
from finetune_operator.core.run.resolve import claims_of
from finetune_operator.core.settings import Settings
from finetune_operator.protocol import Object
from finetune_trainer import contract
from finetune_trainer.contract import CLASS_OF_EXIT_CODE

USER = 65532
"""The user ID of the containers, which is neither root's nor that of a real user.

It works with any image, and in any namespace that enforces the restricted standard.
"""
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
TERMINATION_LOG = "/dev/termination-log"
_WORKSPACE, _CONFIG, _SCRATCH, _SHARED_MEMORY = constants.VOLUMES
_CACHES = {
    "HOME": "home",
    "TMPDIR": "tmp",
    "HF_HOME": "huggingface",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "MPLCONFIGDIR": "matplotlib",
}
_DISK = "ephemeral-storage"
_DEFAULT_SCRATCH = "100Gi"
"""The limit for a pod's disk if the spec sets none.

It is enough for an hf:// model with forty billion parameters in bf16, the data, and compiled code. None of it is
reserved: most jobs read from their claim and write a few GiB, so nodes with small disks can take them. A node whose
kubelet does not measure its disk (localStorageCapacityIsolation: false) takes no pod that requests a part of it.
"""
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_DO_NOT_EVICT = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}


def job_manifest(
    metadata: Object, spec: FineTuneJobSpec, run: RunStatus, settings: Settings, policy: str | None
) -> Object:
    """Return the attempt's Job; `policy` is the name of its pods' NetworkPolicy."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": run.nodes,
            "parallelism": run.nodes,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": _pod_template(metadata, spec, run, settings, policy),
        },
    }


def pod_security(spec: FineTuneJobSpec) -> Object:
    """Return the security context of a pod: restricted, with the fields that the user's pod template sets.

    An example of such a field is fsGroup.
    """
    ours = {"runAsNonRoot": True, "runAsUser": USER, "seccompProfile": {"type": "RuntimeDefault"}}
    return {**ours, **(spec.pod_template.security_context or {})}


def _failure_rules() -> list[Object]:
    """Return rules that make the Job's condition report how the pod that failed first has ended.

    They do not change when the Job fails, which is with its first failed pod. The condition stays when the pods are
    gone (`core/observed/job_verdict.py`). The rules are ordered by what they reveal: an exit code with a class says
    more than that the cluster took the pod away, and that says more than any other exit code, such as 137 after a kill.

    A podFailurePolicy requires podReplacementPolicy Failed, with which a pod counts as failed only when it has ended.
    """
    trainer = {"containerName": constants.CONTAINER}
    return [
        {"action": "FailJob", "onExitCodes": {**trainer, "operator": "In", "values": sorted(CLASS_OF_EXIT_CODE)}},
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {**trainer, "operator": "NotIn", "values": [0]}},
    ]


def _pod_template(
    metadata: Object, spec: FineTuneJobSpec, run: RunStatus, settings: Settings, policy: str | None
) -> Object:
    user = spec.pod_template
    pod: Object = {
        "restartPolicy": "Never",
        "subdomain": metadata["name"],
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # As PID 1, the agent would ignore signals until Python has started, and a pod that is deleted while it starts
        # would train on for its whole grace period. With any other PID, the process ends.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": run.grace_seconds or settings.grace,
        "securityContext": pod_security(spec),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {constants.LABEL_JOB_NAME: metadata["name"]}},
            }
        ],
        "volumes": _volumes(metadata, spec, run) + (user.volumes or []),
        "containers": [_container(metadata, spec, run, settings)],
    }
    affinity = _affinity(user.affinity, run.avoid_nodes)
    for name, value in {
        "nodeSelector": user.node_selector,
        "tolerations": user.tolerations,
        "affinity": affinity,
        "serviceAccountName": user.service_account_name,
        "priorityClassName": user.priority_class_name,
        "initContainers": user.init_containers,
    }.items():
        if value:
            pod[name] = value
    return {
        "metadata": {
            "labels": {
                **(user.labels or {}),
                **metadata["labels"],
                **({constants.LABEL_POLICY: policy} if policy else {}),
            },
            "annotations": {**_DO_NOT_EVICT, **(user.annotations or {})},
        },
        "spec": pod,
    }


def _affinity(given: Object | None, avoid: list[str]) -> Object:
    """Return the user's affinity, with a preference for other nodes than those that failed.

    It is only a preference, so that a cluster without other nodes goes on. An invalid affinity stays as it is, and the
    API server reports what is wrong with it.
    """
    affinity = dict(given or {})
    nodes = affinity.get("nodeAffinity") or {}
    preferred = nodes.get(_PREFERRED) or [] if isinstance(nodes, dict) else None
    if avoid and isinstance(preferred, list):
        others = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in avoid]
        away = {"weight": 100, "preference": {"matchFields": others}}
        affinity["nodeAffinity"] = {**nodes, _PREFERRED: [*preferred, away]}
    return affinity


def _container(metadata: Object, spec: FineTuneJobSpec, run: RunStatus, settings: Settings) -> Object:
    resources: Object = {"cpu": spec.resources.cpu, "memory": spec.resources.memory}
    if spec.resources.gpus_per_node:
        resources[spec.resources.gpu_resource] = spec.resources.gpus_per_node
    ours = _environment(metadata, spec, run, settings)
    names = {variable["name"] for variable in ours}
    return {
        "name": constants.CONTAINER,
        "image": run.image,
        "command": ["python3", "-m", "finetune_trainer.agent"],
        "env": [v for v in spec.pod_template.env or [] if v.get("name") not in names] + ours,
        "ports": [
            {"name": "agent", "containerPort": settings.agent_port},
            {"name": "rendezvous", "containerPort": settings.rendezvous_port},
        ],
        # Requests equal limits, so that our pods are not the first to be killed when a node runs short. Of the disk,
        # only what the user asks for is reserved; without a request of 0, the limit would also be the request.
        "resources": {
            "requests": {**resources, _DISK: spec.resources.scratch or "0"},
            "limits": {**resources, _DISK: spec.resources.scratch or _DEFAULT_SCRATCH},
        },
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePath": TERMINATION_LOG,
        "volumeMounts": _mounts(spec, run) + (spec.pod_template.volume_mounts or []),
    }


def _environment(metadata: Object, spec: FineTuneJobSpec, run: RunStatus, settings: Settings) -> list[Object]:
    host = rendezvous_host(metadata["name"], metadata["namespace"])
    plain = {
        contract.ENV_RUN_CONFIG: f"{constants.CONFIG_PATH}/{constants.RUN_CONFIG_KEY}",
        contract.ENV_WORKSPACE: constants.WORKSPACE_PATH,
        contract.ENV_CLAIMS: constants.CLAIMS_PATH,
        contract.ENV_SCRATCH: constants.SCRATCH_PATH,
        contract.ENV_TERMINATION_LOG: TERMINATION_LOG,
        contract.ENV_RENDEZVOUS: f"{host}:{settings.rendezvous_port}",
        contract.ENV_AGENT_PORT: str(settings.agent_port),
        contract.ENV_GRACE: str(run.grace_seconds or settings.grace),
        contract.ENV_CPUS: str(max(1, int(parse_quantity(spec.resources.cpu)))),
        "USER": "finetune",
        **{name: f"{constants.SCRATCH_PATH}/{folder}" for name, folder in _CACHES.items()},
    }
    from_pod = {contract.ENV_POD_UID: "metadata.uid", contract.ENV_POD_IP: "status.podIP"}
    environment: list[Object] = [{"name": name, "value": value} for name, value in plain.items()]
    environment += [{"name": n, "valueFrom": {"fieldRef": {"fieldPath": path}}} for n, path in from_pod.items()]
    if spec.model.secret_name:
        key = {"name": spec.model.secret_name, "key": constants.HUB_TOKEN_KEY}
        environment.append({"name": constants.HUB_TOKEN_KEY, "valueFrom": {"secretKeyRef": key}})
    return environment


def _volumes(metadata: Object, spec: FineTuneJobSpec, run: RunStatus) -> list[Object]:
    return [
        {"name": _WORKSPACE, "persistentVolumeClaim": {"claimName": run.claim_name}},
        {"name": _CONFIG, "configMap": {"name": metadata["name"]}},
        {"name": _SCRATCH, "emptyDir": {"sizeLimit": spec.resources.scratch or _DEFAULT_SCRATCH}},
        {"name": _SHARED_MEMORY, "emptyDir": {"medium": "Memory", "sizeLimit": spec.resources.shared_memory}},
        *(
            {"name": volume, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
            for claim, volume in _volumes_of_claims(spec, run).items()
            if volume != _WORKSPACE
        ),
    ]


def _mounts(spec: FineTuneJobSpec, run: RunStatus) -> list[Object]:
    return [
        {"name": _WORKSPACE, "mountPath": constants.WORKSPACE_PATH},
        {"name": _CONFIG, "mountPath": constants.CONFIG_PATH, "readOnly": True},
        {"name": _SCRATCH, "mountPath": constants.SCRATCH_PATH},
        {"name": _SHARED_MEMORY, "mountPath": constants.SHARED_MEMORY_PATH},
        *(
            {"name": volume, "mountPath": f"{constants.CLAIMS_PATH}/{claim}", "readOnly": True}
            for claim, volume in _volumes_of_claims(spec, run).items()
        ),
    ]


def _volumes_of_claims(spec: FineTuneJobSpec, run: RunStatus) -> dict[str, str]:
    """Return the volume of each claim that a pvc:// URI refers to.

    The volumes are numbered, because a claim's name may be too long for a volume's.
    """
    volumes = {claim: f"claim-{number}" for number, claim in enumerate(claims_of(spec))}
    return volumes | ({run.claim_name: _WORKSPACE} if run.claim_name in volumes else {})
