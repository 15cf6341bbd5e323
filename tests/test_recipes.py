"""The recipes of docs/every-night.md are what cron, systemd, Kubernetes and continuous integration take."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import consoles
import pytest
import yaml

from flowplan.planner.manifests import job_check

PAGE = consoles.ROOT / "docs" / "every-night.md"
BIN = Path(sys.executable).parent
SPEC = "flowplan.yaml"

# One project of local processes: states of two tests at once would refuse each other.
pytestmark = pytest.mark.xdist_group("pages")


def files() -> dict[str, str]:
    """Return name -> text of every file that the page shows."""
    marked = [b for b in consoles.blocks(PAGE) if b.option.startswith("file: ")]
    return {block.option.removeprefix("file: "): block.text for block in marked}


def at(text: str, directory: Path) -> str:
    """Return a recipe for a project in this directory."""
    for shown, real in {"/home/ada/.local/bin": BIN, "/home/ada/nightly": directory}.items():
        text = text.replace(shown, str(real))
    return text


def bare(command: str, directory: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command as cron does: by sh, in the home directory, with next to no environment."""
    home = directory.parent
    return subprocess.run(
        ["env", "-i", f"HOME={home}", "LOGNAME=ada", "SHELL=/bin/sh", *settings, "sh", "-c", command],
        check=False,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the directory of the page's spec."""
    directory = tmp_path / "nightly"
    directory.mkdir()
    (directory / SPEC).write_text(files()[SPEC])
    return directory


def test_cron_is_silent_after_a_good_night_and_mails_a_bad_one(project: Path) -> None:
    lines = at(files()["crontab"], project).splitlines()
    settings = [line for line in lines if re.match(r"[A-Z_]+=", line)]
    nightly, weekly = (line.split(maxsplit=5)[5] for line in lines if line not in settings)
    assert "%" not in nightly + weekly, "cron takes it for a new line"

    refused = bare(nightly, project, *settings)
    assert refused.stdout.startswith("exit code 6\n"), "there is no state yet, and the first night makes none"
    first = bare(nightly, project, *(s for s in settings if "REQUIRE_STATE" not in s))
    assert (first.returncode, first.stdout, first.stderr) == (0, "", "")
    good = bare(nightly, project, *settings)
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    assert "report is ready" in (project / "last.log").read_text()
    pruned = bare(weekly, project, *settings)
    assert (pruned.returncode, pruned.stdout) == (0, "")

    (project / SPEC).write_text(files()[SPEC].replace("echo loading", "echo no such table; exit 1"))
    bad = bare(nightly, project, *settings)
    assert bad.stdout.startswith("exit code 3\n")
    assert "load | no such table" in bad.stdout


def test_systemd_takes_the_units(project: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("there is no systemd-analyze")
    units = [name for name in files() if name.endswith((".service", ".timer"))]
    for name in units:
        (project / name).write_text(at(files()[name], project))
    done = subprocess.run(
        [tool, "verify", "--man=no", *(str(project / name) for name in units)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    told = [line for line in done.stderr.splitlines() if "nightly" in line]
    assert (done.returncode, told) == (0, [])


def test_the_service_does_what_the_timer_starts(project: Path) -> None:
    service = at(files()["nightly.service"], project)
    assert "\n[Timer]\n" in files()["nightly.timer"], "a timer starts the service of its name"
    command = re.search(r"(?m)^ExecStart=(.*)$", service)
    assert command
    done = bare(command[1], project, "PATH=/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    assert "report | report is ready" in done.stdout


def test_the_cron_job_is_one() -> None:
    from kubernetes.client import V1CronJob, V1CronJobSpec

    (manifest,) = (yaml.safe_load(b.text) for b in consoles.blocks(PAGE) if b.option == "manifest")
    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "CronJob")
    assert manifest.keys() <= set(V1CronJob.attribute_map.values())
    assert manifest["spec"].keys() <= set(V1CronJobSpec.attribute_map.values())
    template = manifest["spec"]["jobTemplate"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "nightly"}, **template}
    assert job_check.problems(job) == ()
    pod: dict[str, Any] = template["spec"]["template"]["spec"]
    assert {m["name"] for m in pod["containers"][0]["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_the_workflow_applies(project: Path) -> None:
    (job,) = yaml.safe_load(files()["nightly.yml"])["jobs"].values()
    state = project.parent / "nightly.db"
    script = "\n".join(step["run"] for step in job["steps"] if "run" in step)
    settings = [f"PATH={BIN}:/usr/bin:/bin", f"FLOWPLAN_STATE={state}"]
    first = bare(f"cd {project}; set -e; {script}", project, *settings)
    assert first.returncode == 0, first.stderr
    second = bare(f"cd {project}; set -e; {script}", project, *settings, "FLOWPLAN_REQUIRE_STATE=1")
    assert second.returncode == 0, second.stderr
    assert "report" in second.stdout
