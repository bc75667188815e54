"""Specs with the verdict that both pydantic and a real API server must give.

The verdict is None for a valid spec. Otherwise it is a part of the message that names the broken rule, or "" if the two
messages differ.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from support.manifests import ABSENT, manifest


class Case(NamedTuple):
    """One spec and its verdict."""

    name: str
    manifest: dict[str, Any]
    refused: str | None


LLM = {
    "spec.task": "CausalLM",
    "spec.dataset.columns": {"prompt": "note", "completion": "summary"},
}
IMAGES = {"spec.task": "ImageClassification", "spec.dataset.columns": {"image": "image", "label": "label"}}


def _case(name: str, refused: str | None, *changes: dict[str, Any], job: str = "clauses") -> Case:
    merged: dict[str, Any] = {}
    for change in changes:
        merged |= change
    return Case(name, manifest(job, **merged), refused)


CASES = (
    # ---- volumes of the pods
    _case(
        "a volume of one's own",
        None,
        {
            "spec.podTemplate.volumes": [{"name": "claims", "emptyDir": {}}],
            "spec.podTemplate.volumeMounts": [
                {"name": "claims", "mountPath": "/data"},
                {"name": "workspace", "mountPath": "/workspace/more"},
            ],
        },
    ),
    _case(
        "a volume with the name of an operator's",
        "spec.podTemplate.volumes: has a name of the operator",
        {
            "spec.podTemplate.volumes": [{"name": "mine", "emptyDir": {}}, {"name": "scratch", "emptyDir": {}}],
        },
    ),
    _case(
        "a volume with the name of a claim's",
        "spec.podTemplate.volumes: has a name of the operator",
        {
            "spec.podTemplate.volumes": [{"name": "claim-7", "emptyDir": {}}],
        },
    ),
    _case(
        "a mount over the operator's",
        "spec.podTemplate.volumeMounts: has a mountPath of the operator",
        {
            "spec.podTemplate.volumeMounts": [{"name": "mine", "mountPath": "/dev/shm/"}],
        },
    ),
    _case(
        "a mount among the claims",
        "spec.podTemplate.volumeMounts: has a mountPath of the operator",
        {
            "spec.podTemplate.volumeMounts": [{"name": "mine", "mountPath": "/claims/a"}],
        },
    ),
    _case("a volume whose name is a number", "", {"spec.podTemplate.volumes": [{"name": 5}]}),
    # ---- valid
    _case("the smallest", None),
    _case("prompt and completion", None, LLM),
    _case("plain text", None, LLM, {"spec.dataset.columns": {"text": "t"}}),
    _case("messages", None, LLM, {"spec.dataset.columns": {"messages": "m"}}),
    _case("images", None, IMAGES),
    _case(
        "a hub model with revision and secret",
        None,
        {"spec.model": {"uri": "hf://a/b", "revision": "v1", "secretName": "hf"}},
    ),
    _case("a hub dataset with revision", None, {"spec.dataset.uri": "hf://a/b", "spec.dataset.revision": "abc"}),
    _case("a secret for the dataset alone", None, {"spec.dataset.uri": "hf://a/b", "spec.model.secretName": "hf"}),
    _case("a model on a claim", None, {"spec.model.uri": "pvc://models/minilm"}),
    _case("a model in a folder", None, {"spec.model.uri": "file:///srv/models/minilm"}),
    _case("evaluation of its own", None, {"spec.dataset.evaluation": {"uri": "workspace://contracts/eval.jsonl"}}),
    _case(
        "rows that are known to leak",
        None,
        {"spec.dataset.evaluation": {"uri": "workspace://contracts/eval.jsonl", "maxLeakFraction": 0.2}},
    ),
    _case("rows that may be bad", None, {"spec.dataset.maxBadFraction": 0.05}),
    _case(
        "the last model, evaluations by steps, early stopping",
        None,
        {
            "spec.evaluate": {"keep": "Last", "everySteps": 50},
            "spec.training.earlyStopping": {"patience": 3, "minDelta": 0.001},
        },
    ),
    _case("another fraction", None, {"spec.dataset.evaluation": {"fraction": 0.5}}),
    _case("full fine-tuning", None, {"spec.method": {"type": "Full"}}),
    _case(
        "LoRA with all its fields",
        None,
        {"spec.method": {"type": "LoRA", "rank": 8, "alpha": 16, "dropout": 0.05, "targetModules": ["query", "value"]}},
    ),
    _case("LoRA with alpha as a float", None, {"spec.method": {"alpha": 1.5}}),
    _case("epochs", None, {"spec.training.epochs": 1}),
    _case("steps instead of epochs", None, {"spec.training.maxSteps": 10}),
    _case("cosine", None, {"spec.training.schedule": "cosine"}),
    _case(
        "no warm-up, no decay, no clipping",
        None,
        {"spec.training": {"warmupFraction": 0, "weightDecay": 0, "maxGradNorm": 0}},
    ),
    _case("bf16", None, {"spec.training.precision": "bf16"}),
    _case("stage 0", None, {"spec.deepspeed.zeroStage": 0}),
    _case(
        "stage 3 with raw keys",
        None,
        {"spec.deepspeed": {"zeroStage": 3, "config": {"zero_optimization": {"overlap_comm": False}}}},
    ),
    _case("gpus on two nodes", None, {"spec.resources": {"nodes": 2, "gpusPerNode": 8, "gpuResource": "amd.com/gpu"}}),
    _case("processes on a CPU", None, {"spec.resources": {"gpusPerNode": 0, "processesPerNode": 4}}),
    _case("cpu as a number", None, {"spec.resources.cpu": 2}),
    _case("cpu in thousandths", None, {"spec.resources.cpu": "1500m"}),
    _case(
        "as much shared memory as memory",
        None,
        {"spec.resources.memory": "2Gi", "spec.resources.sharedMemory": "2048Mi"},
    ),
    _case("scratch", None, {"spec.resources.scratch": "500Gi"}),
    _case("an image", None, {"spec.image": "registry.example/trainer:1"}),
    _case(
        "a pod template",
        None,
        {
            "spec.podTemplate": {
                "nodeSelector": {"pool": "gpu"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
                "labels": {"team": "legal"},
                "annotations": {"a": "b"},
                "securityContext": {"runAsUser": 1000},
                "priorityClassName": "high",
                "volumes": [{"name": "x", "emptyDir": {}}],
                "volumeMounts": [{"name": "x", "mountPath": "/x"}],
            }
        },
    ),
    _case("another claim", None, {"spec.storage.claimName": "legal-models"}),
    _case("a metric", None, {"spec.evaluate.metrics": ["f1"]}),
    _case("perplexity", None, LLM, {"spec.evaluate.metrics": ["perplexity"]}),
    _case("merge", None, {"spec.output.merge": True}),
    _case("a name of forty characters", None, job="a" * 40),
    _case("a path with dots in a name", None, {"spec.dataset.uri": "workspace://contracts/v1..2/train.jsonl"}),
    # ---- refused by the schema -
    _case("no task", "", {"spec.task": ABSENT}),
    _case("an unknown task", "", {"spec.task": "Translation"}),
    _case("no model", "", {"spec.model": ABSENT}),
    _case("no columns", "", {"spec.dataset.columns": ABSENT}),
    _case("no resources", "", {"spec.resources": ABSENT}),
    _case("no word on GPUs", "", {"spec.resources": {"nodes": 2}}),
    _case("an unknown field", "", {"spec.trainig": {"epochs": 1}}),
    _case("an unknown field below", "", {"spec.training.batchSize": 4}),
    _case("an unknown scheme", "", {"spec.model.uri": "s3://bucket/model"}),
    _case("a hub repository without owner", "", {"spec.model.uri": "hf://bert"}),
    _case("a relative file", "", {"spec.dataset.uri": "file://train.jsonl"}),
    _case("epochs as text", "", {"spec.training.epochs": "3"}),
    _case("half an epoch", "", {"spec.training.epochs": 0.5}),
    _case("negative epochs", "", {"spec.training.epochs": -1}),
    _case("a batch of nothing", "", {"spec.training.globalBatchSize": 0}),
    _case("a negative learning rate", "", {"spec.training.learningRate": -0.1}),
    _case("a learning rate of 0", "", {"spec.training.learningRate": 0}),
    _case("an unknown schedule", "", {"spec.training.schedule": "constant"}),
    _case("fp16", "", {"spec.training.precision": "fp16"}),
    _case("all rows for evaluation", "", {"spec.dataset.evaluation": {"fraction": 1.0}}),
    _case("no rows for evaluation", "", {"spec.dataset.evaluation": {"fraction": 0}}),
    _case("dropout of 1", "", {"spec.method": {"dropout": 1}}),
    _case("rank 0", "", {"spec.method": {"rank": 0}}),
    _case("no target", "", {"spec.method": {"targetModules": []}}),
    _case("stage 4", "", {"spec.deepspeed.zeroStage": 4}),
    _case("no node", "", {"spec.resources.nodes": 0}),
    _case("merge as text", "", {"spec.output.merge": "yes"}),
    _case("an unknown metric", "", {"spec.evaluate.metrics": ["bleu"]}),
    _case("an empty claim name", "", {"spec.storage.claimName": ""}),
    # ---- refused by the rules
    _case(
        "two sources of evaluation",
        "dataset.evaluation: needs exactly one source",
        {"spec.dataset.evaluation": {"fraction": 0.1, "uri": "workspace://e.jsonl"}},
    ),
    _case(
        "a leak limit for a fraction",
        "dataset.evaluation.maxLeakFraction: has no meaning with fraction",
        {"spec.dataset.evaluation": {"fraction": 0.1, "maxLeakFraction": 0.2}},
    ),
    _case("more bad rows than there are", "", {"spec.dataset.maxBadFraction": 1.5}),
    _case("an unknown model to keep", "", {"spec.evaluate": {"keep": "First"}}),
    _case("early stopping without patience", "", {"spec.training.earlyStopping": {"minDelta": 0.1}}),
    _case("no source of evaluation", "dataset.evaluation: needs exactly one source", {"spec.dataset.evaluation": {}}),
    _case("classification without label", "needs text and label", {"spec.dataset.columns": {"text": "t"}}),
    _case(
        "classification with a prompt",
        "needs text and label",
        {"spec.dataset.columns": {"text": "t", "label": "l", "prompt": "p"}},
    ),
    _case("images without image", "needs image and label", IMAGES, {"spec.dataset.columns": {"label": "l"}}),
    _case("prompt without completion", "needs text, or messages", LLM, {"spec.dataset.columns": {"prompt": "p"}}),
    _case(
        "text and messages", "needs text, or messages", LLM, {"spec.dataset.columns": {"text": "t", "messages": "m"}}
    ),
    _case("epochs and steps", "keep one of them", {"spec.training": {"epochs": 1, "maxSteps": 10}}),
    _case("a sequence length for images", "has no meaning", IMAGES, {"spec.training.sequenceLength": 512}),
    _case("rank without LoRA", "method.rank: applies only to LoRA", {"spec.method": {"type": "Full", "rank": 8}}),
    _case("alpha without LoRA", "method.alpha: applies only to LoRA", {"spec.method": {"type": "Full", "alpha": 8}}),
    _case(
        "dropout without LoRA",
        "method.dropout: applies only to LoRA",
        {"spec.method": {"type": "Full", "dropout": 0.1}},
    ),
    _case(
        "targets without LoRA",
        "method.targetModules: applies only to LoRA",
        {"spec.method": {"type": "Full", "targetModules": ["q"]}},
    ),
    _case("merge without LoRA", "true needs an adapter", {"spec.method": {"type": "Full"}, "spec.output.merge": True}),
    _case(
        "perplexity of a class",
        "names a metric that task 'SequenceClassification' does not have; use accuracy or f1",
        {"spec.evaluate.metrics": ["accuracy", "perplexity"]},
    ),
    _case(
        "accuracy of text",
        "names a metric that task 'CausalLM' does not have; use perplexity",
        LLM,
        {"spec.evaluate.metrics": ["accuracy"]},
    ),
    _case(
        "processes beside GPUs",
        "one process for each GPU",
        {"spec.resources": {"gpusPerNode": 1, "processesPerNode": 2}},
    ),
    _case("cpu that is no quantity", "resources.cpu: is not an amount", {"spec.resources.cpu": "four"}),
    _case(
        "an exponent that would keep an API server busy",
        "resources.cpu: is not an amount",
        {"spec.resources.cpu": "1e999"},
    ),
    _case("scratch that is no quantity", "resources.scratch: is not an amount", {"spec.resources.scratch": "much"}),
    _case("no scratch", "resources.scratch: is not an amount", {"spec.resources.scratch": 0}),
    _case("no memory", "resources.memory: is not an amount", {"spec.resources.memory": "0"}),
    _case(
        "more shared memory than memory",
        "is more than resources.memory",
        {"spec.resources.memory": "1Gi", "spec.resources.sharedMemory": "2Gi"},
    ),
    _case("a revision of a folder", "is of hf:// only", {"spec.model.revision": "main"}),
    _case("a revision of a dataset in a folder", "is of hf:// only", {"spec.dataset.revision": "main"}),
    _case("a secret for nothing", "is for hf:// sources", {"spec.model.secretName": "hf"}),
    _case("a way out of the storage", "has '.' or '..'", {"spec.model.uri": "workspace://models/../../etc"}),
    _case("a way out by the dataset", "has '.' or '..'", {"spec.dataset.uri": "workspace://a/./b"}),
    _case("a way out by the evaluation", "has '.' or '..'", {"spec.dataset.evaluation": {"uri": "pvc://c/../x"}}),
    _case("a name too long for its pods", "is not a name that the job's pods can bear", job="a" * 41),
    _case("a name with a dot", "is not a name that the job's pods can bear", job="a.b"),
    _case("a name that starts with a digit", "is not a name that the job's pods can bear", job="1a"),
)
