"""Records `finetune run` on the contracts example, and draws the terminal's last screen as run.svg beside this file.

    python docs/pictures/record.py        # `make picture`; takes a minute on two cores

The command writes to a pseudo-terminal. The terminal emulator pyte turns its output into a screen, and rich draws the
screen. The picture has its own dark background and embeds no font, so that it is legible on any page and loads nothing
from other sites.
"""

from __future__ import annotations

import fcntl
import inspect
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pyte
from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).parents[2]
PICTURE = Path(__file__).with_name("run.svg")
COLUMNS, LINES = 100, 24
TITLE = "finetune run"
FONT = 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace'
FRAME: str = inspect.signature(Console.export_svg).parameters["code_format"].default
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", FRAME, flags=re.DOTALL).replace("Fira Code, monospace", FONT)
"""Rich's SVG template without the fonts that it would fetch."""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        # In this folder, the command is the same as a user's in the repository, and the workspace is temporary.
        (Path(folder) / "examples").symlink_to(ROOT / "examples")
        script = [sys.executable, "examples/contracts/make_data.py", "--workspace", "workspace"]
        subprocess.run(script, cwd=folder, check=True)
        arguments = ["run", "examples/contracts/job.yaml"]
        screen = pyte.Screen(COLUMNS, LINES)
        stream = pyte.ByteStream(screen)
        stream.feed(f"$ finetune {' '.join(arguments)}\r\n".encode())
        code = record([sys.executable, "-m", "finetune_operator.cli.main", *arguments], folder, stream)
    if code == 0:
        PICTURE.write_text(drawn(screen, TITLE))
    else:
        sys.stderr.write("\n".join(line.rstrip() for line in screen.display))
    return code


def record(command: Sequence[str], folder: str, stream: pyte.ByteStream) -> int:
    """Run a command in a folder and a pseudo-terminal, and feed its output to the stream. Return the exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with subprocess.Popen(command, cwd=folder, env=environment, **ends) as process:
        os.close(theirs)
        while written := _read(ours):
            stream.feed(written)
    os.close(ours)
    return process.returncode


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux reports this when no process has the terminal open any more
        return b""


def drawn(screen: pyte.Screen, title: str) -> str:
    """Render the screen up to its last line that is not empty, as SVG."""
    used = max((number for number, line in enumerate(screen.display) if line.strip()), default=0)
    with open(os.devnull, "w") as nowhere:
        console = Console(
            record=True, width=screen.columns, file=nowhere, color_system="truecolor", force_terminal=True
        )
        for number in range(used + 1):
            console.print(_line([screen.buffer[number][column] for column in range(screen.columns)]), no_wrap=True)
        return console.export_svg(title=title, code_format=FORMAT, unique_id="run")


def _line(characters: Sequence[Char]) -> Text:
    text = Text()
    for style, cells in groupby(characters, key=_style):
        text.append("".join(cell.data for cell in cells), style)
    text.rstrip()
    return text


def _style(cell: Char) -> Style:
    return Style(color=_colour(cell.fg), bold=cell.bold, italic=cell.italics)


def _colour(name: str) -> str | None:
    """Return rich's name of a colour. pyte's name is a word or six hexadecimal digits."""
    if name == "default":
        return None
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    return name.replace("brown", "yellow").replace("bright", "bright_")


if __name__ == "__main__":
    sys.exit(main())
