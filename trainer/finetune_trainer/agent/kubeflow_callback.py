"""The receiver for Hugging Face's `KubeflowCallback`: a plain HF Trainer script reports progress without extra code.

If KUBEFLOW_TRAINER_SERVER_URL and _TOKEN are set, transformers' Trainer posts, at most every 5 s from rank 0,
`{"trainerStatus": {progressPercentage, estimatedRemainingSeconds, metrics: [{name, value}]}}` with a bearer token that
it reads from a file (transformers/integrations/integration_utils.py). Plain HTTP is enough, because this server listens
on the loopback interface; the token keeps out other users of the same host. The posted values become the pod's
progress.
"""

from __future__ import annotations

import hmac
import json
import math
import os
import secrets
import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from finetune_trainer.agent.server import BoundedServer, QuietHandler
from finetune_trainer.contract import Progress
from finetune_trainer.pod.scratch import Scratch

MAX_BODY_BYTES = 64 * 1024
LOOPBACK = "127.0.0.1"
PATH = "/progress"


def progress_of(body: bytes, before: Progress | None) -> Progress:
    """Convert a post of the callback to a `Progress`. Raises ValueError.

    The first and the last post have no step; it is then computed from the percentage.
    """
    try:
        status = json.loads(body)["trainerStatus"]
        numbers = {str(metric["name"]): _number(metric["value"]) for metric in status.get("metrics") or ()}
        percentage = _number(status.get("progressPercentage", 0)) or 0.0
        eta = _number(status.get("estimatedRemainingSeconds", "nan"))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"not the body of a Kubeflow progress report: {error!r}") from error
    total = numbers.get("total_steps") or (before.total_steps if before else None) or 100
    step = numbers.get("current_step")
    epoch = numbers.get("epoch", numbers.get("current_epoch"))
    loss = numbers.get("loss", numbers.get("train_loss"))
    return Progress(
        step=int(percentage / 100 * total if step is None else step),
        total_steps=int(total),
        epoch=epoch if epoch is not None else before.epoch if before else 0.0,
        loss=loss,
        learning_rate=numbers.get("learning_rate"),
        tokens_per_second=numbers.get("train_tokens_per_second"),
        samples_per_second=numbers.get("train_samples_per_second"),
        eta_seconds=eta,
    )


def _number(value: Any) -> float | None:
    """Return a number, or the number in a text, as a finite float, or None if it is not one.

    Raises TypeError for other types.
    """
    if not isinstance(value, (int, float, str)):
        raise TypeError(f"{value!r} is not a number")
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def receive(scratch: Scratch) -> BoundedServer:
    """Serve the callback until `shutdown` and write its progress to the scratch folder. Raises OSError."""
    token = secrets.token_urlsafe(32)
    descriptor = os.open(scratch.callback_token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token)

    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802  # name of http.server
            if self.path != PATH:
                return self.answer(HTTPStatus.NOT_FOUND)
            given = self.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {token}".encode()):
                return self.answer(HTTPStatus.UNAUTHORIZED)
            try:
                length = int(self.headers.get("Content-Length", ""))
                if not 0 <= length <= MAX_BODY_BYTES:
                    raise ValueError(f"a body of {length} bytes")
                self.stream.allow(length)
                scratch.write_progress(progress_of(self.rfile.read(length), scratch.progress()))
            except ValueError as error:
                return self.answer(HTTPStatus.BAD_REQUEST, body=f"{error}\n")
            return self.answer(HTTPStatus.OK)

    server = BoundedServer((LOOPBACK, 0), Handler)
    threading.Thread(target=server.serve_forever, name="kubeflow-callback", daemon=True).start()
    return server


def environment(base: Mapping[str, str], scratch: Scratch, port: int) -> dict[str, str]:
    """Return the variables that direct the callback to this server, without a proxy in between."""
    excluded = ",".join(filter(None, (base.get("no_proxy") or base.get("NO_PROXY"), LOOPBACK)))
    return {
        "KUBEFLOW_TRAINER_SERVER_URL": f"http://{LOOPBACK}:{port}{PATH}",
        "KUBEFLOW_TRAINER_SERVER_TOKEN": str(scratch.callback_token),
        "NO_PROXY": excluded,
        "no_proxy": excluded,
    }
