"""The example of docs/plugins.md: a provider of another package, installed, does the main job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

FLOWPLAN = Path(sys.executable).with_name("flowplan")
PLUGIN = Path(__file__).parents[1] / "examples" / "plugin"

pytestmark = pytest.mark.xdist_group("plugin")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that the plugin is installed into."""
    top = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PLUGIN, top / "source")
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", top / "site", source], check=True, timeout=120
    )
    return top / "site"


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Run flowplan where the plugin is installed; the exit code is checked."""
    shutil.copy(PLUGIN / "flowplan.yaml", tmp_path)
    env = {**os.environ, "PYTHONPATH": str(installed), "NO_COLOR": "1"}

    def flowplan(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [FLOWPLAN, *arguments], check=False, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return flowplan


def notes(directory: Path) -> dict[str, str]:
    """Name -> text of every note on the board."""
    return {path.stem: json.loads(path.read_text())["text"] for path in sorted((directory / "board").glob("*.json"))}


def test_the_main_job(run: Run, tmp_path: Path) -> None:
    run("validate")
    plan = json.loads(run("plan", "--format", "json").stdout)
    assert [(c["address"], c["after"]["Note"]["text"]) for c in plan["changes"]] == [
        ("hello[name=Ada]", "Hello, Ada."),
        ("hello[name=Grace]", "Hello, Grace."),
    ]
    run("apply", "--yes")
    assert len(notes(tmp_path)) == 2
    assert run("logs", "hello[name=Ada]").stdout == "Hello, Ada.\n"
    run("plan", "--detailed-exitcode")
    run("destroy", "--yes")
    assert not notes(tmp_path)


def test_a_saved_plan_is_shown_checked_and_applied(run: Run, tmp_path: Path) -> None:
    run("plan", "--out", "plan.json")
    shown = run("show", "plan.json").stdout
    assert 'text: "Hello, Ada."' in shown and "retries" not in shown
    run("plan", "--check", "plan.json")
    run("apply", "--yes", "plan.json")
    assert sorted(notes(tmp_path).values()) == ["Hello, Ada.", "Hello, Grace."]


def test_what_is_recorded_is_told(run: Run) -> None:
    run("apply", "--yes", "--detach")
    run("watch")
    status = json.loads(run("status", "--refresh", "--format", "json").stdout)
    assert {r["address"]: r["status"] for r in status["runs"]} == dict.fromkeys(
        ["hello[name=Ada]", "hello[name=Grace]"], "succeeded"
    )
    assert run("events").stdout.count("succeeded") == 2
    assert "hello[name=Ada]" in run("state", "list").stdout


def test_runs_are_done_again(run: Run, tmp_path: Path) -> None:
    run("apply", "--yes")
    run("apply", "--yes", "--rerun", "hello[name=Ada]")
    assert notes(tmp_path) == {"hello[name=Ada]-2": "Hello, Ada.", "hello[name=Grace]-1": "Hello, Grace."}
    assert "attempt 2" in " ".join(run("state", "show", "hello[name=Ada]").stdout.split()).replace('"', "").replace(
        ":", ""
    )


def test_the_state_is_carried_to_another_checkout(run: Run, tmp_path: Path) -> None:
    run("apply", "--yes")
    (tmp_path / "pulled.json").write_text(run("state", "pull", "--with-key").stdout)
    shutil.rmtree(tmp_path / ".flowplan")
    run("state", "push", "pulled.json")
    run("plan", "--detailed-exitcode")
    run("destroy", "--yes")
    assert not notes(tmp_path)


def test_a_lost_state_is_made_again(run: Run, tmp_path: Path) -> None:
    run("apply", "--yes")
    shutil.rmtree(tmp_path / ".flowplan")
    assert "another state" in run("plan", code=6).stderr.replace("\n", " ")
    run("state", "rebuild")
    run("plan", "--detailed-exitcode")
    run("destroy", "--yes")
    assert not notes(tmp_path)


def test_a_note_of_somebody_else_is_imported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "board").mkdir()
    (tmp_path / "board/theirs.json").write_text('{"text": "Hello, Ada."}')
    assert "there is no note nothing" in run("state", "import", "hello[name=Ada]", "nothing", code=1).stderr
    run("state", "import", "hello[name=Ada]", "theirs")
    plan = json.loads(run("plan", "--format", "json").stdout)
    assert {c["address"]: c["action"] for c in plan["changes"]} == {
        "hello[name=Ada]": "no-op",
        "hello[name=Grace]": "create",
    }
    assert run("logs", "hello[name=Ada]").stdout == "Hello, Ada.\n"
    run("destroy", "--yes")
    assert not notes(tmp_path)


def test_its_example_is_written(run: Run, tmp_path: Path) -> None:
    run("init", "new", "--provider", "notes")
    text = (tmp_path / "new/flowplan.yaml").read_text()
    assert "notes: {text:" in text
    schema = json.loads((tmp_path / "new/spec.schema.json").read_text())
    assert jsonschema.Draft202012Validator(schema).is_valid(yaml.safe_load(text)), "the editor knows its block"


def test_a_change_replaces(run: Run, tmp_path: Path) -> None:
    run("apply", "--yes")
    spec = tmp_path / "flowplan.yaml"
    spec.write_text(spec.read_text().replace("Hello", "Good morning"))
    assert "a note is written once" in run("plan").stdout
    run("apply", "--yes", str(spec))
    assert run("logs", "hello[name=Ada]").stdout == "Good morning, Ada.\n"
    run("destroy", "--yes")


def test_faults_of_its_block_are_told(run: Run, tmp_path: Path) -> None:
    spec = tmp_path / "flowplan.yaml"
    spec.write_text(spec.read_text().replace("text:", "txt:"))
    assert "a note needs a text" in run("validate", code=7).stderr


def test_what_its_engine_refuses_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "board").write_text("a file")
    assert "is not a directory" in " ".join(run("plan").stdout.split())
    assert "cannot write into" in run("apply", "--yes", "flowplan.yaml", code=1).stderr


def test_without_it_the_spec_is_not_valid(tmp_path: Path) -> None:
    done = subprocess.run(
        [FLOWPLAN, "validate", PLUGIN / "flowplan.yaml"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 7
    assert "notes" in done.stderr
