"""The ranks' output: its lines, the tail that is kept, and the secrets that are removed."""

from __future__ import annotations

import os

import pytest

from finetune_trainer.agent.rank_output import MAX_KEPT_CHARACTERS, MAX_LINE_BYTES, RankOutput, Tail
from finetune_trainer.agent.rank_processes import STORE
from finetune_trainer.agent.redaction import redactor
from finetune_trainer.contract import MAX_LOG_LINES


def test_a_tail_keeps_the_last_lines_within_its_size() -> None:
    tail = Tail(max_bytes=12)
    for line in ("first", "ünf", "last"):
        tail.append(line)
    assert tail.lines() == ("ünf", "last")


def printed(*words: tuple[str, bytes], local_ranks: int = 1, first_rank: int = 0) -> RankOutput:
    """Return the output that is kept after these bytes came through these pipes."""
    output = RankOutput(range(first_rank, first_rank + local_ranks), redactor({"HF_TOKEN": "hf_01234567"}))
    for pipe, data in words:
        place, _, kind = pipe.partition(".")
        stdout, stderr = output.writers(STORE if place == "store" else first_rank + int(place))
        while data:
            data = data[os.write(stdout if kind == "stdout" else stderr, data) :]
    output.close(timeout=30)
    return output


def test_the_last_lines_of_each_rank_are_kept() -> None:
    lines = b"".join(b"%d\n" % number for number in range(50))
    output = printed(("0.stdout", lines), ("1.stderr", b"oops\n"), local_ranks=2, first_rank=6)
    assert output.last_lines(6) == tuple(str(number) for number in range(50 - MAX_LOG_LINES, 50))
    assert output.last_lines(7) == ("oops",)
    assert "[rank 7] oops" in output.tail()
    assert len(output.tail()) == 51


def test_a_rank_s_lines_are_told_apart_and_the_agent_can_add_to_them() -> None:
    output = RankOutput(range(2), redactor({"HF_TOKEN": "hf_01234567"}))
    os.write(output.writers(0)[0], b"zero\n")
    os.write(output.writers(1)[1], b"one\n")
    output.add(1, "process 7 is sleeping; its command: python hf_01234567")
    output.close(timeout=30)
    assert output.lines(0) == ("zero",)
    assert output.lines(1) == ("one", "process 7 is sleeping; its command: python ***")


def test_of_a_progress_bar_only_the_last_state_is_kept() -> None:
    assert printed(("0.stderr", b"10%\r50%\r100%\r\nnext\n")).last_lines(0) == ("100%", "next")


def test_bytes_that_are_no_text_and_a_missing_newline_are_kept() -> None:
    assert printed(("0.stdout", b"\xff\xfe end")).last_lines(0) == ("\ufffd\ufffd end",)


def test_a_line_without_end_is_passed_on_in_pieces_and_cut_in_memory(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    output = printed(("0.stdout", b"x" * (3 * MAX_LINE_BYTES)))
    assert all(len(line) == MAX_KEPT_CHARACTERS for line in output.last_lines(0))
    assert sum(map(len, output.tail())) == 3 * MAX_LINE_BYTES


def test_credentials_are_neither_passed_on_nor_kept(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    output = printed(
        ("0.stdout", b"with hf_01234567 \xff\n"),
        ("0.stderr", b"password=x\n"),
        ("store.stderr", b"hf_01234567\n"),
    )
    assert sorted(output.last_lines(0)) == ["password=***", "with *** \ufffd"]
    assert output.last_lines(STORE) == ("***",)
    assert sorted(output.tail()) == ["***", "password=***", "with *** \ufffd"]
    passed_on = capfdbinary.readouterr()
    assert passed_on.out == b"with *** \xff\n"
    assert sorted(passed_on.err.splitlines()) == [b"***", b"password=***"]


def test_no_line_of_a_private_key_is_passed_on_whatever_other_streams_say(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    key = b"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADAN\nbm90IGEga2V5\n-----END PRIVATE KEY-----\ndone\n"
    output = printed(("0.stdout", key), ("0.stderr", b"word\n"), ("1.stdout", b"MIIEvQ\n"), local_ranks=2)
    assert sorted(output.last_lines(0)) == ["***", "***", "***", "***", "done", "word"]
    assert output.last_lines(1) == ("MIIEvQ",)
    assert b"bm90" not in capfdbinary.readouterr().out
