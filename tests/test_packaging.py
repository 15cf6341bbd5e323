"""What users install: every subpackage and every schema is in the wheel, and the command works from anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import uuid
import zipfile
from pathlib import Path

import pytest
from own_postgres import OwnPostgres, programs
from stores import sql

ROOT = Path(__file__).parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())
PARTS = ("planner", "providers", "state", "schemas")
SCHEMAS = ("spec", "plan", "event", "status", "history")

pytestmark = pytest.mark.xdist_group("packaging")  # one worker builds


def quietly(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, check=False, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Deprecat" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what is packaged, so that nothing is written into the repository."""
    copy = tmp_path_factory.mktemp("packaging") / "source"
    done = subprocess.run(["git", "ls-files", "-z"], check=True, cwd=ROOT, capture_output=True, text=True)
    for name in filter(None, done.stdout.split("\0")):
        if (ROOT / name).is_symlink():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy


@pytest.fixture(scope="module")
def built(source: Path) -> Path:
    """Return the directory of a wheel and an sdist."""
    quietly(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--sdist", "-o", source.parent, cwd=source)
    return source.parent


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """Return the command in a new environment that holds the wheel."""
    (wheel,) = built.glob("*.whl")
    return install(wheel, built / "venv")


def install(wheel: Path, venv: Path) -> Path:
    """Return the command of a wheel in a new environment, beside the libraries of this one."""
    quietly(sys.executable, "-m", "venv", "--without-pip", venv, cwd=wheel.parent)
    quietly(
        *(sys.executable, "-m", "pip", "--python", venv / "bin" / "python"),
        *("install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel),
        cwd=wheel.parent,
    )
    site = Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))
    # Only the libraries: the editable install of this repository is loaded by .pth files, which this does not read.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin" / "flowplan"


def test_the_wheel_holds_every_file(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"flowplan/schemas/{kind}.schema.json" for kind in SCHEMAS} <= names
    assert {"flowplan/py.typed", "flowplan/schemas/job_api.json"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    folders = {"flowplan": "flowplan", **{part: f"flowplan/{part}" for part in PARTS}}
    wanted = {
        f"{package}/{file.relative_to(ROOT / folder)}"
        for folder, package in folders.items()
        for file in (ROOT / folder).rglob("*.py")
    }
    assert len(wanted) > 100 and wanted <= names
    assert all(name.startswith(("flowplan/", "flowplan-")) for name in names), "nothing beside flowplan is installed"


def test_a_wheel_can_be_built_of_the_sdist(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later
        archive.extractall(built / "unpacked")
    (top,) = (built / "unpacked").iterdir()
    quietly(sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", built / "second", cwd=top)
    (first,), (second,) = built.glob("*.whl"), (built / "second").glob("*.whl")
    assert zipfile.ZipFile(first).namelist() == zipfile.ZipFile(second).namelist()


def test_the_installed_command(installed: Path, tmp_path: Path) -> None:
    assert quietly(installed, "--version", cwd=tmp_path) == f"flowplan {SETUP['project']['version']}\n"
    where = quietly(
        installed.with_name("python"), "-c", "import flowplan.planner as p; print(p.__file__)", cwd=tmp_path
    )
    assert where.startswith(str(installed.parents[1])), "the wheel is what runs, not the repository"


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_installed_command_knows_the_schemas(installed: Path, tmp_path: Path, kind: str) -> None:
    schema = json.loads(quietly(installed, "schema", kind, cwd=tmp_path))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_installed_command_does_the_main_job(installed: Path, tmp_path: Path) -> None:
    env = {"NO_COLOR": "1"}
    quietly(installed, "init", cwd=tmp_path, env=env)
    assert "1 to create" in quietly(installed, "plan", cwd=tmp_path, env=env)
    quietly(installed, "apply", "--yes", cwd=tmp_path, env=env)
    assert "No changes" in quietly(installed, "plan", "--detailed-exitcode", cwd=tmp_path, env=env)
    quietly(installed, "destroy", "--yes", cwd=tmp_path, env=env)


NEXT_FORMATS = """
STEPS = (*STEPS, ("ALTER TABLE flowplan.states ADD COLUMN further text", 1, 1), ("SELECT 1", 1, 3))
NEWEST = len(STEPS)
"""
"""Of a flowplan of the future: format 2 only adds, format 3 is written by those that know it."""


@pytest.fixture(scope="module")
def newer(source: Path) -> Path:
    """Return the command of a wheel that knows newer formats of the tables in a database."""
    future = source.parent / "future"
    shutil.copytree(source, future, symlinks=True)
    with (future / "state/postgres/schema.py").open("a") as file:
        file.write(NEXT_FORMATS)
    quietly(sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", future.parent / "newer", cwd=future)
    (wheel,) = (future.parent / "newer").glob("*.whl")
    return install(wheel, future.parent / "newer-venv")


@pytest.mark.postgres
@pytest.mark.skipif(programs() is None, reason="a PostgreSQL of one's own needs root and its programs")
def test_an_old_and_a_new_flowplan_share_a_database(installed: Path, newer: Path, tmp_path: Path) -> None:
    server = OwnPostgres()
    env = {"NO_COLOR": "1", "FLOWPLAN_STATE": server.url()}
    (tmp_path / "flowplan.yaml").write_text(
        f'flowplan: 1\nproject: p-{uuid.uuid4().hex[:8]}\nruns:\n  a: {{provider: process, command: ["true"]}}\n'
    )

    def does(flowplan: Path, *words: str) -> str:
        return quietly(flowplan, *words, cwd=tmp_path, env=env)

    def refused(flowplan: Path, *words: str) -> str:
        done = subprocess.run(
            [flowplan, *words],
            check=False,
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stderr

    try:
        does(installed, "apply", "--yes")
        assert "flowplan state upgrade" in refused(newer, "plan"), "no command upgrades by the way"
        does(newer, "state", "upgrade")
        for words in (["status"], ["history"], ["logs", "a"], ["state", "pull"]):
            does(installed, *words)
        assert "upgrade flowplan" in refused(installed, "apply", "--yes", "--rerun", "a")
        does(newer, "apply", "--yes", "--rerun", "a")
        sql("UPDATE flowplan.format SET version = 2, least_writer = 1", url=server.url())
        does(installed, "apply", "--yes", "--rerun", "a")
        assert "flowplan state upgrade" in refused(newer, "apply", "--yes")
        does(newer, "state", "upgrade")
        assert json.loads(does(newer, "status", "--format", "json"))["runs"][0]["attempt"] == 3
        does(newer, "destroy", "--yes")
    finally:
        server.remove()


def test_the_version_is_told_once() -> None:
    import flowplan

    assert flowplan.__version__ == SETUP["project"]["version"]
    assert f"## {flowplan.__version__}" in (ROOT / "CHANGELOG.md").read_text()
