"""The shape of the house: what each command may load, how modules are named, and what must not be in the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("planner", "providers", "state", "schemas")
HEAVY = {
    "docker",
    "kubernetes",
    "kubernetes_validate",
    "deepdiff",
    "rich",
    "jsonschema",
    "jsonpatch",
    "requests",
    "urllib3",
    "asyncio",
    "numpy",
}
PROBE = """
import sys
from flowplan.__main__ import main
sys.argv = ["flowplan", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
finally:
    print("\\nLOADED", *sorted({name.partition(".")[0] for name in sys.modules}))
"""
SPEC = "flowplan: 1\nproject: p\nruns:\n  a: {provider: %s, image: busybox:1.35, command: [echo, a]}\n"


def loaded(directory: Path, *arguments: str) -> set[str]:
    """The top-level modules in memory after a command."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        check=False,
        cwd=directory,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(done.stdout.rpartition("LOADED ")[2].split())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "flowplan.yaml").write_text(SPEC % "process")
    return tmp_path


def test_the_version_loads_nothing(directory: Path) -> None:
    assert not loaded(directory, "--version") & (HEAVY | {"typer", "pydantic", "yaml", "sqlite3", "sqlite_utils"})


def test_validating_loads_no_client_and_no_renderer(directory: Path) -> None:
    assert not loaded(directory, "validate") & (HEAVY | {"sqlite_utils"})


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_planning_processes_loads_no_client_and_no_renderer(directory: Path, again: bool) -> None:
    if again:
        loaded(directory, "plan")
    assert not loaded(directory, "plan") & HEAVY


def test_a_whole_life_of_a_process_loads_no_client(directory: Path) -> None:
    for command in (["apply", "--yes"], ["status"], ["events"], ["logs", "a"], ["destroy", "--yes"]):
        assert not loaded(directory, *command) & {"docker", "kubernetes", "kubernetes_validate", "deepdiff"}, command


@pytest.mark.parametrize("provider", ["docker", "kubernetes"])
def test_planning_offline_loads_no_client(tmp_path: Path, provider: str) -> None:
    (tmp_path / "flowplan.yaml").write_text(SPEC % provider)
    assert not loaded(tmp_path, "plan", "--no-refresh") & {"docker", "kubernetes", "deepdiff", "rich"}


@pytest.mark.docker
def test_planning_containers_loads_no_kubernetes(tmp_path: Path) -> None:
    (tmp_path / "flowplan.yaml").write_text(SPEC % "docker")
    assert not loaded(tmp_path, "plan") & {"kubernetes", "kubernetes_validate", "deepdiff", "rich"}


@pytest.mark.kubernetes
def test_planning_jobs_loads_no_docker(tmp_path: Path) -> None:
    (tmp_path / "flowplan.yaml").write_text(SPEC % "kubernetes")
    assert not loaded(tmp_path, "plan") & {"docker", "deepdiff", "rich"}


def tracked() -> list[Path]:
    """The files of the repository; without git those that lie there."""
    done = subprocess.run(["git", "ls-files", "-z"], check=False, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git repository")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def sources() -> list[Path]:
    return sorted(p for part in ("flowplan", *PARTS) for p in (ROOT / part).glob("**/*.py"))


def test_imports_go_one_way() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint], check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_is_a_drawer() -> None:
    names = {"utils", "util", "helpers", "helper", "common", "base", "misc", "manager", "core"}
    assert not [p for p in sources() if p.stem in names or p.parent.name in names]


def test_every_module_says_what_it_is_for() -> None:
    silent = [p for p in sources() if not p.read_text().lstrip().startswith(('"""', "#!"))]
    assert not silent


@pytest.mark.parametrize("part", PARTS)
def test_the_links_of_the_editors(part: str) -> None:
    link = ROOT / "flowplan" / part
    assert os.readlink(link) == f"../{part}"  # noqa: PTH115 - the text of the link, not where it leads
    assert (link / "__init__.py").is_file()


def test_nothing_of_this_machine_is_tracked() -> None:
    """Paths of a machine and addresses of package registries belong to nobody else."""
    place = re.compile(
        r"(?<![\w.])/(?:work|farm|opt/fp|tmp/bash)/|/(?:home|Users)/(?!ada\b|user\b|me\b)\w+/"
        r"|https?://[a-z.]*(?:pypi|pythonhosted|npmjs)[a-z.]*/"
    )
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", "ignore") if path.suffix != ".pyc" else ""
        if path != Path(__file__):
            found += [f"{path.relative_to(ROOT)}: {hit[0]}" for hit in place.finditer(text)]
    assert not found


def test_every_dependency_is_used_and_explained() -> None:
    """A package that nothing imports is not asked of users."""
    text = (ROOT / "pyproject.toml").read_text()
    imported = {"pyyaml": "yaml", "python-slugify": "slugify"}
    code = "\n".join(p.read_text() for p in sources())
    for requirement in tomllib.loads(text)["project"]["dependencies"]:
        name = re.split(r"[<>=~ ]", requirement)[0]
        module = imported.get(name, name.replace("-", "_"))
        assert re.search(rf"(?:import|from) {module}\b|find_spec\(\"{module}\"\)", code), f"{name} is not used"
        assert re.search(rf'"{re.escape(requirement)}", *#', text), f"{name}: why it is there is not said"
