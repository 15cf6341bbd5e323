"""The pages as programs: finds the blocks of a Markdown page, runs its console blocks, and writes their output anew.

A comment before a block says what it is; readers of the page do not see it:

    <!-- session -->                    a new, empty directory from here on
    <!-- session needs docker -->       the same, and the engine that the blocks need
    <!-- file: flowplan.yaml -->        the block is a file of the session
    <!-- hidden file: name ... -->      a file that the page does not show: the rest of the comment
    <!-- example: 01-process.yaml -->   a copy of examples/01-process.yaml, as flowplan.yaml
    <!-- run: docker -->                a YAML block that is the body of a run of this provider
    <!-- spec -->                       a YAML block that is part of a spec, without its first two lines
    <!-- manifest -->                   a YAML block of Kubernetes, or any other YAML that is no spec
    <!-- any order -->                  the lines of the output may come in another order
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]
HOME = "/home/ada/nightly"
"""What the pages show for the directory of a session."""

_FENCE = re.compile(r"^(```+)([a-z]*)\s*$")
_COMMENT = re.compile(r"^<!-- (.*?) ?-->\s*$", re.DOTALL)
_MARK = "\x1eend of a command\x1e"
_MASKS = (
    (re.compile(r'"?\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"?'), "<id>"),
    (re.compile(r"\bsha256:[0-9a-f]+"), "<digest>"),
    (re.compile(r'"?\b[0-9a-f]{12,}\b"?'), "<hex>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT?\s?\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00| UTC)?"), "<time>"),
    (re.compile(r"\b\d\d-\d\d \d\d:\d\d\b"), "<time>"),
    (re.compile(r"\bby \w+@\S+\b"), "by <somebody>"),
    (re.compile(r"\b\d\d:\d\d:\d\d(?:\.\d+)?Z?\b"), "<time>"),
    (re.compile(r"\b(?:\d+(?:\.\d+)?(?:ms|s|m|h)\s?)+ ago\b"), "<age>"),
    (re.compile(r"\bafter (?:<1s|\d+[smhd](?: \d+[smh])?)"), "after <duration>"),
    (re.compile(r"\b(\d+ \w+(?:, \d+ \w+)*; )\d+\w+(?: to \d+\w+)?"), r"\1<durations>"),
    (re.compile(r"^(- )?(on \S+:) .*"), r"\1\2 <engine>"),
    (re.compile(r"\bpid \d+\b|(?<=:)\d{2,7}(?=\"|\s|$)"), "<pid>"),
    (re.compile(r"(?<=\S) {2,}"), "  "),
)


@dataclass(frozen=True)
class Block:
    """A fenced block, or a comment that stands for one (language "").

    Attributes:
        line: of the first line of its text, from 1; option: the comment before it, or "".
    """

    language: str
    text: str
    line: int
    option: str = ""


@dataclass(frozen=True)
class Session:
    """Blocks that share a directory.

    Attributes:
        page: the file; line: where the session begins; needs: engines; blocks: in order.
    """

    page: Path
    line: int
    needs: tuple[str, ...]
    blocks: list[Block] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a console block and its output."""

    text: str
    output: str


def pages() -> list[Path]:
    """Every page of the documentation."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Return the fenced blocks of a page, and the comments that stand alone."""
    lines = page.read_text(encoding="utf-8").splitlines()
    option, number = "", 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if fence := _FENCE.match(line):
            first = number
            while number < len(lines) and lines[number].rstrip() != fence[1]:
                number += 1
            yield Block(fence[2], "\n".join(lines[first:number]) + "\n", first + 1, option)
            option = ""
            number += 1
        elif line.startswith("<!-- "):
            first = number
            while not line.rstrip().endswith("-->") and number < len(lines):
                line += "\n" + lines[number]
                number += 1
            said = (_COMMENT.match(line) or ["", ""])[1].strip()
            if said.startswith(("session", "hidden file:", "example:")):
                yield Block("", said, first)
            else:
                option = said
        elif line.strip():
            option = ""


def sessions(page: Path) -> list[Session]:
    """Return the sessions of a page that run something."""
    found = [Session(page, 1, ())]
    for block in blocks(page):
        if block.language == "" and block.option == "" and block.text.startswith("session"):
            needs = tuple(block.text.removeprefix("session").removeprefix(" needs ").replace(",", " ").split())
            found.append(Session(page, block.line, needs))
        else:
            found[-1].blocks.append(block)
    return [session for session in found if any(b.language == "console" for b in session.blocks)]


def commands(text: str) -> list[Command]:
    """Return the commands of a console block; a line that begins with ``> `` continues the command before it."""
    found: list[tuple[list[str], list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif line.startswith("> ") and found and not found[-1][1]:
            found[-1][0].append(line[2:])
        elif found:
            found[-1][1].append(line)
        else:
            raise ValueError(f"a console block begins with {line!r}, not with a command")
    return [Command("\n".join(typed), "\n".join(shown)) for typed, shown in found]


class Directory:
    """Where a session runs; what still runs at its end is destroyed."""

    def __init__(self, bin_directory: Path) -> None:
        self._top = Path(tempfile.mkdtemp(prefix="fp-"))
        self.path = self._top / "nightly"
        self.path.mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith("FLOWPLAN_") and k != "COLUMNS"}
        path = f"{bin_directory}{os.pathsep}{os.environ['PATH']}"
        self.environment = kept | {"PATH": path, "NO_COLOR": "1", "TERM": "dumb", "LC_ALL": "C.UTF-8"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for state in self.path.rglob("state.db"):
            self._run(f"flowplan destroy --yes --allow-interrupt '*' --state {state}")
        shutil.rmtree(self._top, ignore_errors=True)

    def _run(self, script: str) -> str:
        done = subprocess.run(
            ["bash", "-c", script],
            check=False,
            cwd=self.path,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.stdout

    def put(self, block: Block) -> None:
        """Write the file that a block is, if it is one."""
        said = block.option or block.text
        if block.language == "" and said.startswith("example:"):
            shutil.copy(ROOT / "examples" / said.removeprefix("example:").strip(), self.path / "flowplan.yaml")
        elif block.language == "" and said.startswith("hidden file:"):
            name, _, text = said.removeprefix("hidden file:").strip().partition("\n")
            self._write(name, text + "\n")
        elif said.startswith("file:"):
            self._write(said.removeprefix("file:").strip(), block.text)

    def _write(self, name: str, text: str) -> None:
        path = self.path / name.strip()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def outputs(self, typed: list[Command]) -> list[str]:
        """Return what the commands of one block print, one shell for all of them."""
        steps = [f"{c.text}\n__code=$?; printf '%s' '{_MARK}'; (exit $__code)" for c in typed]
        parts = self._run("\n".join(steps)).split(_MARK)
        return [self._presentable(part) for part in parts[: len(typed)]]

    def _presentable(self, text: str) -> str:
        """As a page shows it: the directory of a reader, no trailing spaces, and the lines of apply as on a terminal."""
        text = re.sub(r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (?! )", "", text)
        text = text.replace(str(self.path), HOME).replace(socket.gethostname(), "ada-laptop")
        text = text.replace(f" by {getpass.getuser()}@", " by ada@")
        return "\n".join(line.rstrip() for line in text.rstrip("\n").splitlines())


def masked(text: str, *, any_order: bool = False) -> str:
    """Text without what differs from run to run: ids, digests, times."""
    lines = [line.rstrip() for line in text.strip("\n").splitlines()]
    for pattern, word in _MASKS:
        lines = [pattern.sub(word, line) for line in lines]
    return "\n".join(sorted(lines) if any_order else lines)


def agrees(shown: str, actual: str, *, any_order: bool = False) -> bool:
    """Whether an output is what the page shows; a line ``...`` stands for any lines."""
    expected, got = masked(shown, any_order=any_order), masked(actual, any_order=any_order)
    if "..." not in expected.splitlines():
        return expected == got
    pieces = re.split(r"(?m)^\.\.\.\n?", expected)
    pattern = "(?s:.*)".join(re.escape(piece) for piece in pieces)
    return re.fullmatch(pattern, got + "\n" if expected.endswith("...") else got) is not None


def run(session: Session, bin_directory: Path) -> list[tuple[Block, Command, str]]:
    """Every command of a session with what it printed."""
    results = []
    with Directory(bin_directory) as directory:
        for block in session.blocks:
            directory.put(block)
            if block.language == "console":
                typed = commands(block.text)
                results += [(block, c, out) for c, out in zip(typed, directory.outputs(typed), strict=True)]
    return results


def disagreements(session: Session, bin_directory: Path) -> Iterator[tuple[Block, Command, str]]:
    """Return the commands of a session whose output is not what the page shows, with what they printed."""
    for block, command, actual in run(session, bin_directory):
        if not agrees(command.output, actual, any_order=block.option == "any order"):
            yield block, command, actual


def rewrite(session: Session, bin_directory: Path) -> int:
    """Write the outputs that are not as shown into the page; returns how many. Lines ``...`` are left to people."""
    lines = session.page.read_text(encoding="utf-8").splitlines()
    changed, moved = 0, 0
    results = run(session, bin_directory)
    for block in dict.fromkeys(block for block, _, _ in results):
        text = ""
        for command, actual in ((c, a) for b, c, a in results if b is block):
            same = agrees(command.output, actual, any_order=block.option == "any order")
            if not same and ("..." in command.output.splitlines() or "this is a defect of flowplan" in actual):
                print(f"{session.page}:{block.line}: by hand: {command.text}\n{actual}", file=sys.stderr)
                same = True
            changed += not same
            shown = command.output if same else actual
            text += "$ " + command.text.replace("\n", "\n> ") + "\n" + (shown + "\n" if shown else "")
        first, size = block.line - 1 + moved, len(block.text.splitlines())
        new = text.splitlines()
        lines[first : first + size] = new
        moved += len(new) - size
    if changed:
        session.page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return changed
