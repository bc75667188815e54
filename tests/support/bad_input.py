"""Mistakes of users, each with the message that reports it: the field, its value and the remedy."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.manifests import ABSENT, manifest

BASE = manifest(
    **{
        "metadata": {"name": "clauses"},
        "spec.model.uri": "workspace://models/bert",
        "spec.dataset.uri": "workspace://data/rows.jsonl",
        "spec.dataset.columns": {"text": "text", "label": "label"},
        "spec.training": {"epochs": 1, "sequenceLength": 32},
        "spec.resources": {"gpusPerNode": 0, "cpu": 1, "memory": "4Gi"},
    }
)
CHAT = {"spec.task": "CausalLM", "spec.model.uri": "workspace://models/gpt2", "spec.dataset.columns": {"messages": "m"}}
PROMPTS = {**CHAT, "spec.dataset.columns": {"prompt": "prompt", "completion": "completion"}}
ROWS = "workspace://data/rows.jsonl"
URI_FORMS = "write hf://owner/name, workspace://path, pvc://claim/path or file:///path"


@dataclass(frozen=True)
class Case:
    """One mistake and the message that reports it.

    `sentence` is the whole of stderr after the prefix `finetune: `.
    """

    name: str
    sentence: str
    changes: dict[str, Any] = field(default_factory=dict)
    """The changes to a valid manifest."""
    text: str | None = None
    """The file's content, in place of the changed manifest."""
    make: Callable[[Path], object] = lambda folder: None
    """A function that damages the workspace folder."""
    command: tuple[str, ...] = ("validate", "job.yaml")


RUN = ("run", "job.yaml", "--workspace", "w")


def row(number: int, content: str) -> Callable[[Path], object]:
    """Return a function that replaces one line of the rows; line numbers begin at 1."""

    def make(folder: Path) -> None:
        file = folder / "data" / "rows.jsonl"
        lines = file.read_text().splitlines()
        lines[number - 1] = content
        file.write_text("\n".join(lines))

    return make


def rows(content: str | bytes, name: str = "rows.jsonl") -> Callable[[Path], object]:
    """Return a function that replaces the rows, or writes another file next to them."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / "data" / name).write_bytes(data)


def removed(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


THE_MANIFEST = (
    Case(
        "a file that is not there",
        "none.yaml: cannot be read (No such file or directory); give the path of a manifest",
        command=("validate", "none.yaml"),
    ),
    Case("a folder", "w: cannot be read (Is a directory); give the path of a manifest", command=("validate", "w")),
    Case(
        "a file that is no text",
        "job.yaml: cannot be read (it is not UTF-8 text); give the path of a manifest",
        text="\udcff",
    ),
    Case("an empty file", "job.yaml: there is no manifest in it; write a FineTuneJob", text="# later\n"),
    Case(
        "no YAML",
        "job.yaml, line 2: expected ',' or ']', but got ':' (while parsing a flow sequence)",
        text="kind: [FineTuneJob\nspec: 1\n",
    ),
    Case(
        "a key twice",
        "job.yaml, line 3: the key 'kind' is given twice, first in line 1",
        text="kind: FineTuneJob\nspec: {}\nkind: FineTuneJob\n",
    ),
    Case(
        "another kind",
        "job.yaml: apiVersion, kind: 'v1', 'Pod' is not a FineTuneJob; write finetune.dev/v1alpha1 and FineTuneJob",
        {"apiVersion": "v1", "kind": "Pod"},
    ),
    Case(
        "no kind",
        "job.yaml: apiVersion, kind: 'finetune.dev/v1alpha1', null is not a FineTuneJob; "
        "write finetune.dev/v1alpha1 and FineTuneJob",
        {"kind": ABSENT},
    ),
    Case("a spec without fields", "job.yaml: spec: is empty; give it a value", {"spec": None}),
    Case("no resources", "job.yaml: spec.resources: is missing; add it", {"spec.resources": ABSENT}),
    Case(
        "a misspelt field",
        "job.yaml: spec.training.epoch: there is no such field; did you mean epochs?",
        {"spec.training.epoch": 3},
    ),
    Case("a misspelt field at the top", "job.yaml: specs: there is no such field; did you mean spec?", {"specs": {}}),
    Case(
        "a field that is like no other",
        "job.yaml: spec.resources.zzz: there is no such field; the fields here are cpu, gpuResource, gpusPerNode, "
        "memory, nodes, processesPerNode, scratch, sharedMemory",
        {"spec.resources.zzz": 3},
    ),
    Case(
        "a list for a number",
        "job.yaml: spec.training.epochs: [3] is not a whole number; write one without quotes",
        {"spec.training.epochs": [3]},
    ),
    Case(
        "true for a number",
        "job.yaml: spec.training.epochs: true is not a whole number; write one without quotes",
        {"spec.training.epochs": True},
    ),
    Case(
        "a number in quotes",
        "job.yaml: spec.training.learningRate: '2e-4' is not a number; write one without quotes",
        {"spec.training.learningRate": "2e-4"},
    ),
    Case("a number for a text", "job.yaml: metadata.name: 7 is not text; put it in quotes", {"metadata.name": 7}),
    Case(
        "a text for a list",
        "job.yaml: spec.evaluate.metrics: 'f1' is not a list; write [..] or one '- ' line for each entry",
        {"spec.evaluate": {"metrics": "f1"}},
    ),
    Case(
        "a text for an object",
        "job.yaml: spec.method: 'LoRA' is not an object; write its fields below it, indented",
        {"spec.method": "LoRA"},
    ),
    Case(
        "yes for true, in quotes",
        "job.yaml: spec.output.merge: 'yes' is neither true nor false; write one of them, without quotes",
        {"spec.output": {"merge": "yes"}},
    ),
    Case(
        "half a CPU",
        "job.yaml: spec.resources.cpu: 0.5 is neither a whole number nor text; put it in quotes",
        {"spec.resources.cpu": 0.5},
    ),
    Case(
        "an unknown task",
        "job.yaml: spec.task: 'Classification' is not one of 'CausalLM', 'SequenceClassification', "
        "'ImageClassification'; use one of them",
        {"spec.task": "Classification"},
    ),
    Case(
        "a negative number",
        "job.yaml: spec.training.epochs: -1 is too small; use 1 or more",
        {"spec.training.epochs": -1},
    ),
    Case(
        "a learning rate of a million",
        "job.yaml: spec.training.learningRate: 1000000 is too large; use 1 or less",
        {"spec.training.learningRate": 1_000_000},
    ),
    Case(
        "two sources of evaluation",
        "job.yaml: spec.dataset.evaluation: needs exactly one source; set either fraction (for example 0.1) or uri",
        {"spec.dataset.evaluation": {"fraction": 0.1, "uri": ROWS}},
    ),
    Case(
        "a name too long for its children",
        f"job.yaml: metadata.name: '{'a' * 41}' is not a name that the job's pods can bear; use at most 40 lowercase "
        "letters, digits and '-', with a letter first and no '-' last",
        {"metadata.name": "a" * 41},
    ),
    Case(
        "a namespace that leads out of the workspace",
        "job.yaml: metadata.namespace: '../..' is not the name of a namespace; use lowercase letters, digits and '-'",
        {"metadata.namespace": "../.."},
    ),
    Case(
        "an unknown scheme",
        f"job.yaml: spec.model.uri: 'http://models/bert' is not a place that can be read; {URI_FORMS}",
        {"spec.model.uri": "http://models/bert"},
    ),
    Case(
        "a bucket",
        f"job.yaml: spec.dataset.uri: 's3://bucket/rows.jsonl' is not a place that can be read; {URI_FORMS}",
        {"spec.dataset.uri": "s3://bucket/rows.jsonl"},
    ),
    Case(
        "a path",
        f"job.yaml: spec.model.uri: './models/bert' is not a place that can be read; {URI_FORMS}",
        {"spec.model.uri": "./models/bert"},
    ),
    Case(
        "merge without an adapter",
        "job.yaml: spec.output.merge: true needs an adapter, but method.type is 'Full'; "
        "remove it or set method.type: LoRA",
        {"spec.method": {"type": "Full"}, "spec.output": {"merge": True}},
    ),
    Case(
        "a raw key that the operator plans",
        "job.yaml: spec.deepspeed.config: zero_optimization.stage is planned by the operator; "
        "remove it and use deepspeed.zeroStage instead",
        {"spec.deepspeed": {"config": {"zero_optimization": {"stage": 3}}}},
    ),
)

THIS_MACHINE = (
    Case(
        "two jobs in one file",
        "job.yaml: has 2 FineTuneJobs; give a file with one",
        text=f"{json.dumps(BASE)}\n---\n{json.dumps(BASE)}\n",
        command=RUN,
    ),
    Case(
        "a job that is suspended",
        "job.yaml: spec.suspend: is true, and on this machine nobody would resume the job; set it to false",
        {"spec.suspend": True},
        command=RUN,
    ),
    Case(
        "a workspace that is a file",
        "--workspace: job.yaml is a file; give a folder",
        command=("run", "job.yaml", "--workspace", "job.yaml"),
    ),
    Case(
        "a workspace that cannot be written",
        "--workspace: /proc/none cannot be made (No such file or directory); give a folder that you can write",
        {"spec.model.uri": "hf://a/b", "spec.dataset.uri": "hf://a/b"},
        command=("run", "job.yaml", "--workspace", "/proc/none"),
    ),
    Case(
        "a workspace without the data",
        "job.yaml: spec.dataset.uri: 'workspace://data/row.jsonl' is not there (TMP/w/data/row.jsonl does not exist); "
        "is it rows.jsonl?",
        {"spec.dataset.uri": "workspace://data/row.jsonl"},
        command=RUN,
    ),
    Case(
        "a model that is not there",
        "job.yaml: spec.model.uri: 'file:///none/bert' is not there (/none/bert does not exist); "
        "put it there or correct the URI",
        {"spec.model.uri": "file:///none/bert"},
        command=RUN,
    ),
    Case(
        "a claim without a folder",
        "job.yaml: spec.model.uri: 'pvc://models/bert' has no folder on this machine; add --claim models=DIR",
        {"spec.model.uri": "pvc://models/bert"},
        command=RUN,
    ),
    Case(
        "a claim that is no pair",
        "--claim: 'models' is not NAME=DIR; write for example data=/srv/data",
        command=(*RUN, "--claim", "models"),
    ),
    Case(
        "a claim whose folder is not there",
        "--claim: none is not a folder; give one that exists, as in models=/srv/models",
        command=(*RUN, "--claim", "models=none"),
    ),
    Case(
        "GPUs that this machine has not",
        r"job.yaml: spec.resources.gpusPerNode: 64 is more than the \d+ GPUs of this machine; "
        "set gpusPerNode: 0 to train on its CPUs, or submit the job to a cluster",
        {"spec.resources.gpusPerNode": 64},
        command=RUN,
    ),
    Case(
        "several nodes with GPUs on one machine",
        "job.yaml: spec.resources.nodes: 2 nodes with GPUs cannot be on one machine; "
        "set nodes: 1, or gpusPerNode: 0 to train on CPUs",
        {"spec.resources": {"nodes": 2, "gpusPerNode": 1}},
        command=RUN,
    ),
    Case(
        "a secret for which there is no token",
        "job.yaml: spec.model.secretName: on this machine the token of 'hub' is the variable HF_TOKEN, which is not "
        "set; export it or remove the field",
        {"spec.model": {"uri": "hf://a/b", "secretName": "hub"}},
        command=RUN,
    ),
)

THE_DATA = (
    Case(
        "a missing column",
        f"dataset.columns.text: {ROWS} has no column 'txt'; its columns are text, label",
        {"spec.dataset.columns": {"text": "txt", "label": "label"}},
    ),
    Case(
        "no label column",
        f"dataset.columns.label: {ROWS} has no column 'class'; its columns are label, text",
        {"spec.dataset.columns": {"text": "text", "label": "class"}},
    ),
    Case(
        "an empty file", f"dataset.uri: {ROWS} is empty; put at least two rows there or correct the URI", make=rows("")
    ),
    Case(
        "a file that is no text",
        f"dataset.uri: {ROWS} line 1 is not UTF-8 text; save the file as UTF-8",
        make=rows(b"\xff\xfe\x00"),
    ),
    Case(
        "a parquet file that is none",
        r"dataset.uri: workspace://data/rows.parquet cannot be read as parquet \(.*\); write the file again",
        {"spec.dataset.uri": "workspace://data/rows.parquet"},
        make=rows("text,label", "rows.parquet"),
    ),
    Case(
        "a malformed line",
        f"dataset.uri: {ROWS} line 3 is not JSON (Expecting value at column 10); mend or remove that line",
        make=row(3, '{"text": rent}'),
    ),
    Case(
        "a file of no known type",
        "dataset.uri: workspace://data/rows.txt has type .txt, which is not known; "
        "give jsonl, json, csv, tsv, parquet or arrow, or a folder of them or of pictures",
        {"spec.dataset.uri": "workspace://data/rows.txt"},
        make=rows("rent", "rows.txt"),
    ),
    Case(
        "a row without text",
        "dataset.columns.text: rows.jsonl:2: column 'text' is empty; fill it in or remove the row",
        make=row(2, '{"text": " ", "label": "first"}'),
    ),
    Case(
        "one class only",
        "dataset.columns.label: all 2 training rows have the label 'rent' in column 'label'; "
        "give rows of at least two classes or name another column",
        {"spec.dataset.evaluation": {"uri": "workspace://data/eval.jsonl"}},
        make=lambda folder: [
            rows('{"text": "a", "label": "rent"}\n{"text": "b", "label": "rent"}')(folder),
            rows('{"text": "c", "label": "rent"}', "eval.jsonl")(folder),
        ],
    ),
    Case(
        "evaluation rows with other columns",
        "dataset.columns.text: workspace://data/eval.jsonl has no column 'text'; its columns are label, body",
        {"spec.dataset.evaluation": {"uri": "workspace://data/eval.jsonl"}},
        make=rows('{"body": "a", "label": "first"}', "eval.jsonl"),
    ),
    Case(
        "an evaluation label that training has not",
        f"dataset.evaluation.uri: label of 6 characters at eval.jsonl:1 occurs in no training row; add such rows to "
        f"{ROWS} or remove it here",
        {"spec.dataset.evaluation": {"uri": "workspace://data/eval.jsonl"}},
        make=rows('{"text": "a", "label": "fourth"}', "eval.jsonl"),
    ),
    Case(
        "a chat without an assistant",
        "dataset.columns.messages: rows.jsonl:1: column 'm' has no assistant message with content, so nothing to "
        "learn; add one or remove the row",
        CHAT,
        make=rows('{"m": [{"role": "user", "content": "Hello"}]}'),
    ),
    Case(
        "a chat with a model that has no template",
        "dataset.columns.messages: the model's tokenizer has no chat template; use a model that has one, or the "
        "columns prompt and completion",
        CHAT,
        make=lambda folder: [
            rows("\n".join(json.dumps({"m": [{"role": "assistant", "content": f"w{n}"}]}) for n in range(40)))(folder),
            removed("models/gpt2/chat_template.jinja")(folder),
        ],
    ),
)
THE_MODEL = (
    Case(
        "a model folder without config",
        "model.uri: workspace://models/bert has no config.json; give a folder in Hugging Face layout",
        make=removed("models/bert/config.json"),
    ),
    Case(
        "a config that is no JSON",
        r"model.uri: config.json of workspace://models/bert cannot be used \(It looks like the config file at "
        r"'workspace://models/bert/config.json' is not a valid JSON file\); save the model again",
        make=lambda folder: (folder / "models/bert/config.json").write_text("{"),
    ),
    Case(
        "a model folder without tokenizer",
        "model.uri: workspace://models/bert has no usable tokenizer (its vocabulary is empty); "
        "save it beside the model",
        make=lambda folder: [
            removed(f"models/bert/{name}")(folder)
            for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        ],
    ),
    Case(
        "a model folder without weights",
        r"model.uri: workspace://models/bert cannot be loaded \(.* directory workspace://models/bert\); "
        "give a folder with all its weights",
        make=removed("models/bert/model.safetensors"),
    ),
    Case(
        "weights that were cut",
        r"model.uri: workspace://models/bert cannot be loaded \(.*header.*\); give a folder with all its weights",
        make=lambda folder: os.truncate(folder / "models/bert/model.safetensors", 1000),
    ),
    Case(
        "a model that is a file",
        f"model.uri: {ROWS} is not a folder; give one in Hugging Face layout",
        {"spec.model.uri": ROWS},
    ),
    Case(
        "a task that does not fit the model",
        "task: CausalLM does not fit model.uri workspace://models/bert, which is of type bert; "
        "choose another task or another model",
        {**PROMPTS, "spec.model.uri": "workspace://models/bert", "spec.dataset.columns": {"text": "text"}},
    ),
    Case(
        "an image task for a language model",
        "task: ImageClassification does not fit model.uri workspace://models/bert, which is of type bert; "
        "choose another task or another model",
        {
            "spec.task": "ImageClassification",
            "spec.dataset.columns": {"image": "text", "label": "label"},
            "spec.training": {"epochs": 1},
        },
    ),
)
THE_WHOLE = (
    Case(
        "a missing column, said by a rank",
        f"dataset.columns.text: {ROWS} has no column 'txt'; its columns are text, label",
        {"spec.dataset.columns": {"text": "txt", "label": "label"}},
        command=RUN,
    ),
    Case(
        "a raw key that DeepSpeed does not know",
        r"deepspeed.config: DeepSpeed refuses it \(.*overlap_com.*\); correct or remove the key",
        {"spec.deepspeed": {"config": {"zero_optimization": {"overlap_com": True}}}},
        command=RUN,
    ),
)
