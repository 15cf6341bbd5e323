"""What an editor shows while a spec is written: hover, completion and diagnostics of yaml-language-server.

npm installs the server once for the checkout, into the cache of pytest. Without npm or the network the tests are skipped.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import consoles
import pytest
from language_server import LanguageServer
from projects import FLOWPLAN

SERVER = "yaml-language-server@1.25.0"
ROOT = consoles.ROOT
MODELINE = "# yaml-language-server: $schema=spec.schema.json\n"
RUN = f"{MODELINE}flowplan: 1\nproject: nightly\nruns:\n  extract:\n"
EXAMPLES = sorted(
    p for p in ROOT.glob("examples/**/*.yaml") if "flowplan: 1" in p.read_text() and "plugin" not in p.parts
)

# One server for all of these tests.
pytestmark = pytest.mark.xdist_group("editor")

MISTAKES = {
    "provider: [dokcer]": "[dokcer]",
    "provider: dokcer": "dokcer",
    "timeout: 10 minutes": "10 minutes must be a duration such as 90, 90s, 15m or 2h30m",
    "grace_period: -5": "-5",
    "timeot: 10m": "timeot",
    "rerun: allways": "allways",
    "replace: stopfirst": "stopfirst",
    "protect: never": "never",
    "image_pull_policy: always": "always",
    "retries: two": "two must be a whole number",
    "retries: -1": "-1",
    "max_parallel: 0": "0",
    "stream_output: 'no'": "'no' must be true or false",
    "command: 5": "5 must be a string or a list",
    "needs: {extract: done}": "{extract: done} must be a string or a list",
    "env: [A=b]": "[A=b]",
    "env: {A: {from_enviroment: B}}": "from_enviroment",
    "env: {A: {from_env: B, from_file: c}}": "{",
    "resources: {cpu: lots}": "lots must be a quantity such as 500m or 2",
    "resources: {limits: {cpu: 1}}": "limits",
    "matrix: {index: [1, 2]}": "index must be a name of letters, digits, _ and - (and not index)",
    "matrix: {shard: {from: 1}}": "shard",
    "docker: {mem_limit: 64x}": "64x must be a size such as 512m, 1.5g or 16Gi",
    "kubernetes: {customizations: [{op: change, path: /spec}]}": "change",
}
"""A line of a run -> the part of it that is marked, and what is said where the words are ours."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory in which `flowplan init` was run."""
    directory = tmp_path_factory.mktemp("editor")
    subprocess.run([FLOWPLAN, "init", "--provider", "docker"], cwd=directory, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def editor(folder: Path, request: pytest.FixtureRequest) -> Iterator[LanguageServer]:
    npm, place = shutil.which("npm"), request.config.cache.mkdir("yaml-language-server")
    program = place / "node_modules" / "yaml-language-server" / "bin" / "yaml-language-server"
    if npm is None:
        pytest.skip("needs npm (not installed)")
    if not program.exists():
        install = [
            npm,
            "install",
            "--prefix",
            str(place),
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--fetch-retries=1",
            SERVER,
        ]
        done = subprocess.run(install, check=False, capture_output=True, text=True, timeout=300)
        if done.returncode:
            pytest.skip(f"needs yaml-language-server, and npm cannot install it: {done.stderr[-300:]}")
    server = LanguageServer(["node", str(program), "--stdio"], folder)
    yield server
    server.close()


def spot(editor: LanguageServer, name: str, text: str) -> tuple[str, int, int]:
    """Open a document of which | marks a place; return its address, and the line and column."""
    before, _, after = text.partition("|")
    return editor.open(name, before + after), before.count("\n"), len(before) - before.rfind("\n") - 1


def test_the_file_that_init_writes_has_no_fault(editor: LanguageServer, folder: Path) -> None:
    text = (folder / "flowplan.yaml").read_text()
    assert text.startswith(MODELINE)
    assert editor.diagnostics(editor.open("flowplan.yaml", text)) == []
    assert editor.diagnostics(editor.open("broken.yaml", text.replace("runs:", "rums:"))), "the schema is found"


def test_no_example_and_no_page_has_a_fault(editor: LanguageServer) -> None:
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in EXAMPLES}
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")):
        shown = [b.text for b in consoles.blocks(page) if b.option == "file: flowplan.yaml"]
        texts |= {f"{page.stem}{number}.yaml": text for number, text in enumerate(shown)}
    assert len(texts) > 20
    opened = {name: editor.open(name.replace("/", "-"), MODELINE + text) for name, text in texts.items()}
    assert {name: told for name, uri in opened.items() if (told := editor.diagnostics(uri))} == {}


def test_every_mistake_is_marked_where_it_is(editor: LanguageServer) -> None:
    opened = [editor.open(f"mistake{n}.yaml", f"{RUN}    {mistake}\n") for n, mistake in enumerate(MISTAKES)]
    for uri, (mistake, expected) in zip(opened, MISTAKES.items(), strict=True):
        marked = {}
        for told in editor.diagnostics(uri):
            assert told["range"]["start"]["line"] == told["range"]["end"]["line"] == RUN.count("\n")
            place = slice(told["range"]["start"]["character"] - 4, told["range"]["end"]["character"] - 4)
            marked[mistake[place]] = told["message"]
        wrong, ours, words = expected.partition(" must be ")
        assert wrong in marked, (mistake, marked)
        assert not ours or marked[wrong] == f"must be {words}", (mistake, marked)


def test_a_provider_may_be_an_entry_of_the_spec(editor: LanguageServer) -> None:
    text = f"{RUN}    provider: gpu\n"
    assert editor.diagnostics(editor.open("unknown-provider.yaml", text))
    text += "providers:\n  gpu: {type: kubernetes, context: gpu}\n"
    assert editor.diagnostics(editor.open("known-provider.yaml", text)) == []


@pytest.mark.parametrize(
    ("line", "offered", "told"),
    [
        ("provider: |", ["process", "docker", "kubernetes", "slurm"], "A Docker Engine."),
        ("rerun: |", ["on_failure", "on_change", "always", "never"], "After a failure, and after a change."),
        ("rerun: al|", ["always"], "With every apply, unless it is still running."),
        ("protect: |", ["active", "always", "false"], "While it is live."),
        ("timeout: |", ["90s", "10m", "2h"], None),
        ("nee|", ["needs"], "Addresses of runs that must succeed first: one, or a list."),
        ("docker: {mem|", ["mem_limit", "memswap_limit"], "Memory limit: 512m, 1.5g, bytes."),
    ],
)
def test_completion(editor: LanguageServer, line: str, offered: list[str], told: str | None) -> None:
    name = f"completion-{re.sub('[^a-z]', '-', line)}.yaml"
    items = editor.completion(*spot(editor, name, f"{RUN}    {line}\n"))
    assert {item["label"] for item in items} >= set(offered)
    documentation = [item.get("documentation") for item in items]
    shown = {d["value"] if isinstance(d, dict) else d for d in documentation}
    assert told is None or told in shown, shown


def test_a_new_run_is_offered_whole(editor: LanguageServer) -> None:
    items = editor.completion(*spot(editor, "new.yaml", RUN + "    |\n"))
    (inserted,) = (item["insertText"] for item in items if item["label"] == "a container")
    text = re.sub(r"\$\{\d:([^}]*)\}", r"\1", inserted).replace("\n", "\n    ")
    assert editor.diagnostics(editor.open("filled.yaml", f"{RUN}    {text}\n")) == []
    assert "provider: docker" in text and "image: busybox:1.35" in text


def test_a_provider_takes_its_own_settings(editor: LanguageServer) -> None:
    head = RUN.replace("runs:\n", "providers:\n  gpu:\n    type: kubernetes\n    |\nruns:\n")
    labels = {item["label"] for item in editor.completion(*spot(editor, "settings.yaml", head))}
    assert labels >= {"kubeconfig", "context", "namespace"} and "host" not in labels


def test_hover_shows_one_title_and_the_description_of_every_field(editor: LanguageServer) -> None:
    text = MODELINE + (ROOT / "tests/fixtures/specs/valid/everything.yaml").read_text()
    uri = editor.open("everything.yaml", text)
    schema = json.loads((ROOT / "schemas/spec.schema.json").read_text())
    fields = schema["$defs"]["Run"]["properties"]
    parts = {part["description"] for part in schema["$defs"].values()}
    seen = set()
    for number, line in enumerate(text.splitlines()):
        name = line.strip().partition(":")[0]
        if line.startswith("    ") and line[4] != " " and name in fields:
            shown = editor.hover(uri, number, 5).replace("\\", "").splitlines()
            assert shown[0] == f"#### {fields[name]['title']}" and "||" not in "".join(shown), line
            assert {fields[name]["description"], *parts} & set(shown), line
            seen.add(name)
    assert len(seen) > 25
    assert editor.diagnostics(uri) == []


def test_hover_explains_each_word_of_a_choice(editor: LanguageServer) -> None:
    shown = editor.hover(*spot(editor, "hover.yaml", f"{RUN}    rerun: al|ways\n"))
    assert "With every apply, unless it is still running." in shown
    assert "Not even after a change." in shown
