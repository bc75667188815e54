"""What the wait for rank 0 tells while it lasts."""

from __future__ import annotations

import logging
import socket

import pytest
from unit.agent.pod import free_port

from finetune_trainer import agent
from finetune_trainer.errors import StoppedError


class AskedToStop:
    """A stop request that comes after so many looks at it."""

    def __init__(self, looks: int) -> None:
        self._looks = looks

    @property
    def requested(self) -> bool:
        self._looks -= 1
        return self._looks < 0


def test_names_that_do_not_resolve_are_tried_again_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*_: object, **__: object) -> socket.socket:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    monkeypatch.setattr(agent, "RETRY_SECONDS", (0.001, 0.002))
    monkeypatch.setattr(agent, "REPORT_SECONDS", 0.0)
    with (
        caplog.at_level(logging.INFO, "agent"),
        pytest.raises(StoppedError, match=r"waited for rank 0 at job-0\.svc:29500"),
    ):
        agent.wait_for_rank_zero(("job-0.svc", 29500), AskedToStop(looks=3))  # type: ignore[arg-type]
    assert len(caplog.messages) == 3
    assert caplog.messages[0].startswith("waiting for rank 0 at job-0.svc:29500 for 0 s: ")
    assert "Name or service not known" in caplog.messages[0]


def test_a_short_wait_says_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(agent, "RETRY_SECONDS", (0.001, 0.002))
    with caplog.at_level(logging.INFO, "agent"), pytest.raises(StoppedError):
        agent.wait_for_rank_zero(("127.0.0.1", free_port()), AskedToStop(looks=3))  # type: ignore[arg-type]
    assert caplog.messages == []
