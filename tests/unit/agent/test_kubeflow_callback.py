"""A plain Hugging Face Trainer script reports its progress."""

from __future__ import annotations

import http.client
import json
import os
import stat
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune_trainer.agent import kubeflow_callback
from finetune_trainer.agent.kubeflow_callback import progress_of
from finetune_trainer.contract import Progress
from finetune_trainer.pod.scratch import Scratch


def body(metrics: dict[str, object] | None = None, **status: object) -> bytes:
    listed = [{"name": name, "value": str(value)} for name, value in (metrics or {}).items()]
    return json.dumps(
        {"trainerStatus": {"lastUpdatedTime": "2026-01-01T00:00:00+00:00", "metrics": listed} | status}
    ).encode()


def test_steps_and_metrics_become_progress() -> None:
    metrics = {"loss": 0.5, "learning_rate": 2e-4, "epoch": 0.33, "current_step": 10, "total_steps": 30}
    progress = progress_of(body(metrics, progressPercentage=33, estimatedRemainingSeconds=40), None)
    assert progress == Progress(step=10, total_steps=30, epoch=0.33, loss=0.5, learning_rate=2e-4, eta_seconds=40)


def test_the_first_post_has_only_the_total_and_the_last_only_the_percentage() -> None:
    first = progress_of(body({"total_steps": 30}, progressPercentage=0), None)
    assert first == Progress(step=0, total_steps=30, epoch=0.0)
    last = progress_of(body({"train_loss": 0.4, "epoch": 3.0}, progressPercentage=100), first)
    assert last == Progress(step=30, total_steps=30, epoch=3.0, loss=0.4)


def test_without_any_steps_the_percentage_counts() -> None:
    assert progress_of(body(progressPercentage=40), None) == Progress(step=40, total_steps=100, epoch=0.0)


def test_a_loss_that_is_not_finite_is_absent() -> None:
    assert progress_of(body({"loss": "nan", "learning_rate": "inf"}, progressPercentage=1), None).loss is None


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"trainerStatus": 3}', b"\xff", body(metrics=None, metrics_=1)[:-1]]
)
def test_anything_else_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match="not the body of a Kubeflow progress report"):
        progress_of(text, None)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[Scratch, dict[str, str]]]:
    """Start the receiver of progress; yield its scratch folder and the variables that make a script report to it."""
    scratch = Scratch(tmp_path)
    scratch.prepare()
    server = kubeflow_callback.receive(scratch)
    yield scratch, kubeflow_callback.environment({"NO_PROXY": "svc"}, scratch, server.server_port)
    server.shutdown()
    server.server_close()


def post(url: str, token: str, data: bytes) -> int:
    request = urllib.request.Request(url, data, {"Authorization": f"Bearer {token}"}, method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_only_the_bearer_of_the_token_is_heard(receiver: tuple[Scratch, dict[str, str]]) -> None:
    scratch, variables = receiver
    url = variables["KUBEFLOW_TRAINER_SERVER_URL"]
    token_file = Path(variables["KUBEFLOW_TRAINER_SERVER_TOKEN"])
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert post(url, "guess", body(progressPercentage=40)) == 401
    assert scratch.progress() is None
    assert post(url, token_file.read_text(), b"rubbish") == 400
    assert post(url + "/more", token_file.read_text(), body()) == 404
    assert post(url, token_file.read_text(), body(progressPercentage=40)) == 200
    assert scratch.progress() == Progress(step=40, total_steps=100, epoch=0.0)


def test_the_receiver_answers_only_posts_of_a_bounded_size(receiver: tuple[Scratch, dict[str, str]]) -> None:
    scratch, variables = receiver
    url, token = variables["KUBEFLOW_TRAINER_SERVER_URL"], Path(variables["KUBEFLOW_TRAINER_SERVER_TOKEN"]).read_text()
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"}, method=method)
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10)
    largest = body(progressPercentage=40) + b" " * kubeflow_callback.MAX_BODY_BYTES
    assert post(url, token, largest[: kubeflow_callback.MAX_BODY_BYTES]) == 200
    assert scratch.progress() == Progress(step=40, total_steps=100, epoch=0.0)
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=10)
    headers = {"Authorization": f"Bearer {token}", "Content-Length": str(kubeflow_callback.MAX_BODY_BYTES + 1)}
    connection.request("POST", urllib.parse.urlsplit(url).path, headers=headers)
    assert connection.getresponse().status == 400, "refused before the body is read"
    connection.close()


@pytest.mark.parametrize("nonsense", [b"[" * 60_000, b'{"trainerStatus":{"progressPercentage":1%s}}' % (b"0" * 400)])
def test_a_hostile_body_is_refused(receiver: tuple[Scratch, dict[str, str]], nonsense: bytes) -> None:
    scratch, variables = receiver
    token = Path(variables["KUBEFLOW_TRAINER_SERVER_TOKEN"]).read_text()
    assert post(variables["KUBEFLOW_TRAINER_SERVER_URL"], token, nonsense) == 400
    assert scratch.progress() is None


def test_a_proxy_of_the_environment_does_not_catch_the_posts(receiver: tuple[Scratch, dict[str, str]]) -> None:
    assert receiver[1]["no_proxy"] == receiver[1]["NO_PROXY"] == "svc,127.0.0.1"


def test_the_installed_transformers_speaks_to_it(
    receiver: tuple[Scratch, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    integrations = pytest.importorskip("transformers.integrations", reason="needs the extra `trainer`: make setup")
    scratch, variables = receiver
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KUBEFLOW_TRAINER_SERVER_CA_CERT", raising=False)
    callback = integrations.KubeflowCallback()
    callback._MIN_UPDATE_INTERVAL = 0.0
    state = SimpleNamespace(is_world_process_zero=True, max_steps=20, global_step=0, epoch=0.0)
    callback.on_train_begin(None, state, None)
    assert scratch.progress() == Progress(step=0, total_steps=20, epoch=0.0)
    state.global_step, state.epoch = 5, 0.25
    callback.on_log(None, state, None, logs={"loss": 1.5, "learning_rate": 1e-4, "epoch": 0.25})
    callback.on_step_end(None, state, None)
    progress = scratch.progress()
    assert progress
    assert (progress.step, progress.total_steps, progress.loss, progress.epoch) == (5, 20, 1.5, 0.25)
    callback.on_train_end(None, state, None)
    assert scratch.progress().step == 20  # type: ignore[union-attr]
    assert os.environ["KUBEFLOW_TRAINER_SERVER_URL"].startswith("http://127.0.0.1:")
