"""The pictures of the pages: a command is run in a terminal of some size, and its screen becomes an SVG.

``docs/generate.py --pictures`` takes all of them anew; ``tests/test_pictures.py`` compares them with what is printed today.
A picture is one entry of PICTURES.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import termios
from collections import defaultdict
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import consoles
from rich.console import Console
from rich.text import Text

DIRECTORY = consoles.ROOT / "docs" / "pictures"
SIZES = ((80, 24), (160, 50))
_CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""They would be fetched from somewhere; every system has a monospaced one."""


@dataclass(frozen=True)
class Picture:
    """A screen.

    Attributes:
        name: of the file; spec: the flowplan.yaml; before: what is typed unseen; command: what is seen.
    """

    name: str
    spec: str
    before: str
    command: str


NIGHT = """\
flowplan: 1
project: nightly
defaults: {provider: process}
runs:
  extract:
    matrix: {day: ["2026-11-24", "2026-11-25", "2026-11-26"], shard: [1, 2]}
    command: [sh, -c, 'sleep 0.5; echo "4711 rows of ${each.day}"; test ${each.day} != 2026-11-25 -o ${each.shard} = 1']
  load:
    command: [sh, -c, 'echo "connecting"; echo "Traceback: connection refused" >&2; exit 3']
    retries: 1
  slow: {command: [sleep, '600'], timeout: 1s, grace_period: 1s}
  report: {needs: [load], command: [echo, done]}
"""
LIVE = """\
flowplan: 1
project: nightly
variables: {rate: {default: "0.1"}, limit: {default: 90m}}
defaults: {provider: process}
runs:
  load: {command: [sh, -c, 'echo "connection refused" >&2; exit 3']}
  train:
    command: [sh, -c, 'sleep 600', train, --rate, "${var.rate}"]
    timeout: ${var.limit}
"""
EVENING = """\
flowplan: 1
project: nightly
defaults: {provider: process}
runs:
  extract:
    matrix: {day: ["2026-11-24", "2026-11-25", "2026-11-26"]}
    max_parallel: 2
    command: [sh, -c, 'sleep 600']
  check: {command: [sh, -c, 'sleep 3; echo "3 tables are sound"']}
  load: {command: [sh, -c, 'sleep 3; echo "connection refused" >&2; exit 3']}
  publish: {needs: [load], command: [echo, done]}
  report: {needs: [extract], command: [echo, done]}
"""
PICTURES = (
    Picture(
        "plan",
        LIVE,
        "flowplan apply --yes --detach; until flowplan status | grep -q failed; do sleep 0.2; done; sleep 1",
        "flowplan plan --var rate=0.2 --var limit=2h30m",
    ),
    Picture("apply", NIGHT, "flowplan plan --out night.json", "flowplan apply night.json --yes --no-stream"),
    Picture(
        "status",
        EVENING,
        "flowplan apply --yes --detach; until flowplan status | grep -q failed; do sleep 0.2; done; sleep 1",
        "flowplan status",
    ),
    Picture("watch", EVENING, "flowplan apply --yes --detach", "flowplan watch --wait-timeout 6s"),
    Picture(
        "history",
        NIGHT,
        "flowplan apply --yes --no-stream; flowplan apply --yes --no-stream --target load; flowplan destroy --yes --target slow",
        "flowplan history",
    ),
)


def take(picture: Picture, columns: int, rows: int, bin_directory: Path) -> list[str]:
    """Return the lines of the screen, with colours, once the command has ended."""
    with consoles.Directory(bin_directory) as directory:
        (directory.path / "flowplan.yaml").write_text(picture.spec, encoding="utf-8")
        environment = {k: v for k, v in directory.environment.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color"}
        subprocess.run(
            ["bash", "-c", picture.before],
            check=False,
            cwd=directory.path,
            env=directory.environment,
            capture_output=True,
            timeout=120,
        )
        near, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        with subprocess.Popen(
            ["bash", "-c", picture.command], cwd=directory.path, env=environment, stdin=far, stdout=far, stderr=far
        ):
            os.close(far)
            data = b""
            while block := _read(near):
                data += block
        os.close(near)
        text = data.decode().replace(str(directory.path), consoles.HOME).replace(socket.gethostname(), "ada-laptop")
        text = text.replace(f"{getpass.getuser()}@", "ada@")
    return screen(f"$ {picture.command}\n{text}", rows)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody writes to it any more
        return b""


def screen(text: str, rows: int) -> list[str]:
    """Return the last rows of a terminal: what went back to the beginning of a line, or up, was written over."""
    lines, row, fresh = [""], 0, False
    for codes, letter, back, down, words in _CODE.findall(text):
        if back:
            fresh = True
        elif down:
            row, fresh = row + 1, True
            lines += [""] * (row + 1 - len(lines))
        elif letter == "A":
            row = max(0, row - int(codes or 1))
        elif letter == "K":
            lines[row] = "" if fresh or codes == "2" else lines[row]
        elif letter == "m" or words:
            lines[row] = ("" if fresh else lines[row]) + (words or f"\x1b[{codes}m")
            fresh = False
    while lines and not lines[-1].strip():
        lines.pop()
    return lines[-rows:]


def drawn(lines: list[str], columns: int, title: str) -> str:
    """Return a screen as an SVG."""
    console = Console(record=True, width=columns, file=StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=False)
    return _FONTS.sub("", console.export_svg(title=title, unique_id="flowplan"))


def words_of(svg: str) -> list[str]:
    """Return the lines of text in a picture, without its title."""
    lines: dict[str, str] = defaultdict(str)
    for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        if "-title" not in element.get("class", ""):
            lines[element.get("y", "")] += element.text or ""
    return [line.replace("\xa0", " ").rstrip() for line in lines.values()]


def file_of(picture: Picture, columns: int, rows: int) -> Path:
    """Return where a picture is."""
    return DIRECTORY / f"{picture.name}-{columns}x{rows}.svg"


def write() -> None:
    """Take all pictures."""
    DIRECTORY.mkdir(exist_ok=True)
    for picture in PICTURES:
        for columns, rows in SIZES:
            lines = take(picture, columns, rows, Path(sys.executable).parent)
            file_of(picture, columns, rows).write_text(
                drawn(lines, columns, f"flowplan {picture.name}"), encoding="utf-8"
            )
            print(file_of(picture, columns, rows).relative_to(consoles.ROOT))
