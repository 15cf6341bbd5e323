"""Hostile input for the tests: how it is built, and the command line that is driven with it under watch."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import re
import resource
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from flowplan.__main__ import OBJECTS
from flowplan.cli import run

SECONDS = 2.0
"""CPU time that a command may take for a file below 1 MB."""
MEGABYTES = 300
"""Memory that it may take beyond what the tests themselves need."""
ROOT = Path(__file__).resolve().parent.parent
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys, or what turns the order of what it shows."""
STARTS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
)
CODE = tuple({str(ROOT), sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()})
READABLE = (*CODE, "/dev/null", "/proc/", "/etc/localtime", "/usr/share/zoneinfo", "/etc/machine-id", "/sys/")
"""What any command may read: code, and what says which machine this is."""


@dataclass
class Watch:
    """What the interpreter did while a command ran."""

    on: bool = False
    opened: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            self.opened.append(os.path.abspath(os.fsdecode(arguments[0])))  # noqa: PTH100 - it need not be a path
        elif event in STARTS or event == "socket.connect":
            self.started.append(f"{event}{arguments!r}"[:200])


WATCH = Watch()
sys.addaudithook(WATCH.hear)


@dataclass(frozen=True)
class Told:
    """What a command line said."""

    code: int
    out: str
    err: str


class Place:
    """A directory with hostile files in it, made anew for every example."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="hostile-"))

    def write(self, name: str, content: bytes | str) -> None:
        data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        (self.path / name).write_bytes(data)

    def flowplan(self, *arguments: str, seconds: float = SECONDS) -> Told:
        """Run a command line in this process and hold it to what is promised of every input."""
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
        former, WATCH.opened, WATCH.started = Path.cwd(), [], []
        collected = gc.get_threshold()
        os.chdir(self.path)
        before = time.process_time()
        try:
            with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
                WATCH.on = True
                gc.set_threshold(OBJECTS, 20, 100)  # as the command does
                code = run(list(arguments))
        finally:
            WATCH.on = False
            gc.set_threshold(*collected)
            os.chdir(former)
        took = time.process_time() - before
        out, err = (s.buffer.getvalue().decode("utf-8") for s in streams)  # type: ignore[attr-defined]
        told = Told(code, out, err)
        self._hold(told, took, seconds)
        return told

    def _hold(self, told: Told, took: float, seconds: float) -> None:
        text = told.out + told.err
        assert "Traceback" not in text and "defect of flowplan" not in text, text[-1500:]
        assert told.code in (0, 1, 2, 4, 6, 7), told
        assert (
            told.code == 0 or told.code == 2 or told.err.startswith(("error: ", "warning: ", "New state: ")) or told.out
        ), told
        assert took < seconds, f"{took:.1f} s"
        elsewhere = [p for p in WATCH.opened if not p.startswith((str(self.path), *READABLE))]
        assert not elsewhere, f"read {elsewhere}"
        assert not WATCH.started, f"started {WATCH.started}"
        assert not OBEYED.search(text), repr(OBEYED.search(text))

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """Make a place that is gone afterwards."""
    made = Place()
    try:
        yield made
    finally:
        made.close()


def peak_megabytes() -> float:
    """Return the most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- values and texts ---------------------------------------------------------------------------------------------------

NASTY = [
    "", " ", "\n", "\t", "\r\n", "\x00", "\x1b[2J", "\x1b]8;;https://evil.test\x07x\x1b]8;;\x07", "\x9b31m", "\u202e", "\u2028",
    "\ud800", "\udfff", "\ufeff", "é", "日本", "🙂", "a" * 300, "~", "-", "--", "---", "...", "null", "true", "1e400",
    "0x1F", "010", "1:30", "2026-11-01", "2026-99-99", "../../../../etc/passwd", "/etc/passwd", "~root/.ssh/id_rsa", "/dev/zero",
    "/dev/stdin", "$(touch hacked)", "`touch hacked`", "; touch hacked", "| touch hacked", "${var.x}", "${var.list}",
    "${var.map.a}", "${var.map}", "${var.secret}", "${each.a}", "${each.index}", "${run.id}", "${run.attempt}", "${project}",
    "${var.}", "${var.x", "$${var.x}", "${run.id}${run.id}", "${var.list[-1]}", "${var.list[99999999999999999999]}", "{{ x }}",
    "{{ x.y[0] }}", "{{", "}}", "{{ prefect.variables.a }}", "(sensitive env:A 0123456789abcdef)", "(sensitive x unresolved)",
    "a[b=c]", "a[b=\"]", "(a+)+$", "(", "[a-", "(?P<a>", "\\", "%", "%s", "{0}", "@team", "<script>", "-->", "```", "|", "1Ei", "-1", "9" * 90,
    "1h", "99999999999h", "0.0000000001s", "*", "?", "[", "a,b=c", "unix:///x", "http://[", "a:b:c", "docker", "process", "kubernetes",
]  # fmt: skip
KEYS = [
    "flowplan", "project", "variables", "providers", "defaults", "runs", "moved", "removed", "policies", "type", "default", "enum",
    "pattern", "sensitive", "required", "provider", "image", "command", "entrypoint", "env", "labels", "annotations", "name",
    "working_dir", "resources", "cpu", "memory", "gpu", "needs", "matrix", "include", "exclude", "from", "to", "step", "max_parallel",
    "timeout", "start_timeout", "retries", "grace_period", "rerun", "replace", "protect", "ignore_changes", "triggers", "template",
    "kubernetes", "docker", "process", "namespace", "job", "customizations", "op", "path", "value", "volumes", "mem_limit",
    "networks", "registry_credentials", "username", "password", "create_options", "HostConfig", "from_env", "from_file",
    "secret_key_ref", "key", "inherit_env", "kubeconfig", "context", "spec", "metadata", "containers", "restartPolicy", "x-own", "<<",
    "job_configuration", "properties", "$ref", "$defs", "allOf", "items", "patternProperties", "apiVersion", "kind",
]  # fmt: skip

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1, 10**30, -(10**30), 1e308, 1e-308, 2**31, 2**63, 2**64, 1e400, 10**99]),
)
texts = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=12), st.sampled_from(NASTY).flatmap(lambda t: st.just("x" + t + "y"))
)
keys = st.one_of(st.sampled_from(KEYS), texts)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=8,
)


def paths(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield every place of a tree."""
    yield at
    members = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in members:
        yield from paths(value, (*at, key))


@st.composite
def mutated(draw: st.DrawFn, trees: list[Any], most: int = 4) -> Any:
    """Return one of the trees with a few places replaced, removed, renamed, doubled or moved."""
    tree = json.loads(json.dumps(draw(st.sampled_from(trees))))
    for _ in range(draw(st.integers(1, most))):
        places = list(paths(tree))
        where = places[draw(st.integers(0, len(places) - 1))]
        tree = _changed(draw, tree, where, places)
    return tree


def _changed(draw: st.DrawFn, tree: Any, where: tuple[Any, ...], places: list[tuple[Any, ...]]) -> Any:
    if not where:
        return draw(values) if draw(st.integers(0, 9)) == 0 else tree
    parent = tree
    for part in where[:-1]:
        parent = parent[part]
    how = draw(st.sampled_from(["scalar", "text", "value", "key", "remove", "copy", "append"]))
    last = where[-1]
    if how == "remove":
        del parent[last]
    elif how == "key" and isinstance(parent, dict):
        parent[draw(keys)] = parent.pop(last)
    elif how == "copy":
        parent[last] = json.loads(json.dumps(_at(tree, places[draw(st.integers(0, len(places) - 1))])))
    elif how == "append" and isinstance(parent[last], dict):
        parent[last][draw(keys)] = draw(values)
    elif how == "append" and isinstance(parent[last], list):
        parent[last].insert(0, draw(values))
    else:
        parent[last] = draw(texts if how == "text" else scalars if how == "scalar" else values)
    return tree


def _at(tree: Any, where: tuple[Any, ...]) -> Any:
    for part in where:
        tree = tree[part]
    return tree


SNIPPETS = [
    "flowplan: 1\n", "project: p\n", "runs:\n", "  a:\n", "    provider: process\n", "    command: [echo]\n", "a: ", "- ", "&a ", "*a",
    "<<: *a\n", "!!python/object/apply:os.system [touch hacked]", "!!str ", "!!int ", "!!binary ", "!!set ", "!x ", "? ", ": ", "{", "}", "[", "]",
    ", ", "#", "|\n", ">-\n", "'", '"', "\n", "\r\n", "\r", "\t", "  ", "---\n", "...\n", "%YAML 1.1\n", "%TAG ! x\n", "\ufeff", "\x00", "\x85",
    "\u2028", "\ud800", "0o7", "0x1F", ".inf", ".nan", "1_000", "~", "é", "\\ud83d\\ude42", '"\\ud800"', '"\\x00"', "runs", "=", "@", "`",
]  # fmt: skip
yaml_texts = st.one_of(
    st.lists(st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=4)), max_size=40).map("".join),
    st.binary(max_size=80),
)


def as_text(tree: Any) -> str:
    """Write a tree as JSON, which is YAML; lone surrogates stay escapes."""
    return json.dumps(tree, ensure_ascii=True, allow_nan=True).replace("NaN", ".nan").replace("Infinity", ".inf")
