"""The shape of the house: how modules are named, and what must not be in the repository."""

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


def tracked() -> list[Path]:
    """Return the files of the repository; without git those that lie there."""
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
    """Refuse paths of a machine and addresses of package registries."""
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
    """Refuse packages that nothing imports."""
    text = (ROOT / "pyproject.toml").read_text()
    imported = {
        "pyyaml": "yaml",
        "python-slugify": "slugify",
        "python-dotenv": "dotenv",
        "websocket-client": "websocket",
    }
    code = "\n".join(p.read_text() for p in sources())
    for requirement in tomllib.loads(text)["project"]["dependencies"]:
        name = re.split(r"[<>=~ ]", requirement)[0]
        module = imported.get(name, name.replace("-", "_"))
        assert re.search(rf"(?:import|from) {module}\b|find_spec\(\"{module}\"\)", code), f"{name} is not used"
        assert re.search(rf'"{re.escape(requirement)}", *#', text), f"{name}: why it is there is not said"
