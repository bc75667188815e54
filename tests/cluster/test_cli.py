"""Tests of the commands that connect to a cluster, as a user types them; `test_training.py` has those that train."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.kubectl import Kubectl
from support.manifests import ABSENT, changed, manifest

JOB = changed(manifest(), {"metadata": {"name": "clauses"}})


def finetune(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command and check that it prints no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "finetune_operator.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environment},
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def written(folder: Path, job: dict[str, Any]) -> str:
    file = folder / "job.yaml"
    file.write_text(json.dumps(job))
    return str(file)


@pytest.fixture
def nobody(kubectl: Kubectl, tmp_path: Path) -> str:
    """Return a kubeconfig for a service account without any rights."""
    kubectl.run("create", "serviceaccount", "nobody")
    config = yaml.safe_load(kubectl.run("config", "view", "--raw", "--minify", "--flatten").stdout)
    config["users"][0]["user"] = {"token": kubectl.run("create", "token", "nobody").stdout.strip()}
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config))
    return str(file)


def test_submit_applies_a_job_and_says_how_to_follow_it(kubectl: Kubectl, tmp_path: Path) -> None:
    done = finetune("submit", written(tmp_path, JOB), "-n", kubectl.namespace)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"finetunejob.finetune.dev/clauses applied to namespace {kubectl.namespace}",
        f"Follow it with: finetune watch clauses -n {kubectl.namespace}",
    ]
    assert kubectl.get("ftj", "clauses")["spec"]["task"] == "SequenceClassification"

    again = changed(JOB, {"spec.training": {"epochs": 5}})
    assert finetune("submit", written(tmp_path, again), "-n", kubectl.namespace).returncode == 0
    assert kubectl.get("ftj", "clauses")["spec"]["training"]["epochs"] == 5


def test_submit_uses_the_manifest_s_namespace_before_the_kubeconfig_s(kubectl: Kubectl, tmp_path: Path) -> None:
    job = changed(JOB, {"metadata.namespace": kubectl.namespace})
    assert finetune("submit", written(tmp_path, job)).returncode == 0
    assert kubectl.get("ftj", "clauses")


def test_submit_of_an_invalid_manifest_reaches_no_cluster(kubectl: Kubectl, tmp_path: Path) -> None:
    file = written(tmp_path, changed(JOB, {"spec.training": {"epochs": "3"}, "spec.task": ABSENT}))
    done = finetune("submit", file, "-n", kubectl.namespace)
    assert (done.returncode, done.stdout) == (2, "")
    assert sorted(done.stderr.splitlines()) == [
        f"finetune: {file}: spec.task: is missing; add it",
        f"finetune: {file}: spec.training.epochs: '3' is not a whole number; write one without quotes",
    ]
    assert kubectl.get("ftj") == []


def test_submit_to_a_namespace_that_is_not_there_says_so(crd: None, tmp_path: Path) -> None:
    done = finetune("submit", written(tmp_path, JOB), "-n", "no-such-namespace")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'finetune: namespaces "no-such-namespace" not found; create it or use another --namespace\n'


@pytest.mark.parametrize("command", ["submit", "watch", "logs"])
def test_a_user_without_rights_is_told_which_one_is_missing(
    command: str, kubectl: Kubectl, nobody: str, tmp_path: Path
) -> None:
    what = written(tmp_path, JOB) if command == "submit" else "clauses"
    done = finetune(command, what, "-n", kubectl.namespace, KUBECONFIG=nobody)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    verb = "patch" if command == "submit" else "get"
    assert f'cannot {verb} resource "finetunejobs"' in line
    assert line.endswith("; ask for the right, or use another --context")


@pytest.mark.parametrize("command", ["watch", "logs"])
def test_a_job_that_is_not_there_is_one_sentence(command: str, kubectl: Kubectl) -> None:
    done = finetune(command, "none", "-n", kubectl.namespace)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        'finetune: finetunejobs.finetune.dev "none" not found; give another name or another --namespace\n'
    )


def test_logs_of_a_job_that_has_not_started_say_where_to_look(kubectl: Kubectl) -> None:
    kubectl.apply(JOB)
    done = finetune("logs", "clauses", "-n", kubectl.namespace)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"finetune: clauses has not started yet; look at: kubectl describe ftj clauses -n {kubectl.namespace}\n"
    )


def test_watch_of_a_job_that_the_cluster_cannot_run_ends_with_its_sentence(
    kubectl: Kubectl, operator: subprocess.Popen[bytes]
) -> None:
    kubectl.apply(changed(JOB, {"spec.model.uri": "file:///models/minilm"}))
    done = finetune("watch", "clauses", "-n", kubectl.namespace)
    assert done.returncode == 2
    assert done.stderr == (
        "finetune: spec.model.uri: 'file:///models/minilm' is read by 'finetune run' only; "
        "put it on the claim and write workspace://path\n"
    )
