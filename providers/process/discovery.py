"""Finding processes again: those of a project by the files of their runs, and any other by its pid."""

from __future__ import annotations

import os
from pathlib import Path

from flowplan.providers.process import marks, record
from flowplan.providers.process.kernel import stat_of
from flowplan.providers.process.procfs import environment, host_id, host_name, started_at, this_boot
from flowplan.providers.process.runfiles import RunFiles, look
from flowplan.providers.protocol import IMPORTED, Found
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.runs import Objects, Observed, Status

UNKNOWN: Objects = {"Process": {}}
"""What is known of the content of a process without files, or with files of an older flowplan: nothing."""


def of_project(runs_dir: Path, project: str, environment: str, scans: marks.Scans, spec_dir: Path) -> list[Found]:
    """Return every attempt of the project in an environment, of any lineage, that runs or of which the end is known."""
    here = (project, environment)
    running = {one.run_id: one for one in marks.leaders(scans.all()) if (one.project, one.environment) == here}
    found = []
    for path in runs_dir.glob(f"*/{record.NAME}"):
        files = RunFiles(path.parent, path.parent.name)
        known = files.record()
        owner = known.owner if known else {}
        owned = (owner.get("project"), owner.get("environment", ""))
        if known and owned == here and owner.get("host_id") == host_id():
            seen = look(files, None, scans.of)
            if seen.exists and not seen.elsewhere and not (known.end or {}).get("failure"):
                lineage, ran = str(owner.get("lineage", "")), owner.get("objects") or UNKNOWN
                now = _content(seen.handle["pid"], spec_dir) if seen.status is Status.RUNNING else None
                found.append(Found(seen, project, lineage, now, bare=ran, applied=ran))
            running.pop(seen.run_id, None)
    found += [Found(live(one, ""), project, one.lineage, None, UNKNOWN, UNKNOWN) for one in running.values()]
    return sorted(found, key=lambda one: (one.seen.address, one.seen.attempt))


def live(one: marks.Marked, lineage: str) -> Observed:
    """Return a run that is known by the marks of its processes alone; ``lineage`` is ours."""
    started = started_at(one.start_time)
    handle = {"pid": one.pid, "start_time": one.start_time, "boot_id": this_boot(), "host": host_name()}
    return Observed(
        one.run_id,
        address=one.address,
        attempt=one.attempt,
        status=Status.RUNNING,
        attempts=1,
        handle=handle,
        infrastructure_id=f"{host_name()}:{one.pid}",
        started_at=started,
        at=started,
        lineage="" if one.lineage == lineage else one.lineage,
        created_at=started,
        created_from=one.created_from,
    )


def process(object_id: str, spec_dir: Path) -> Found:
    """Return the process of a pid (``1234`` or ``host:1234``), whoever started it.

    Args:
        spec_dir: what its directory is said relative to, if it is within.

    Raises:
        ProviderError: there is none, it belongs to another user, or flowplan itself runs in it.
    """
    host, _, number = object_id.rpartition(":")
    if not number.isdigit() or host not in ("", host_name()):
        raise ProviderError(f'"{object_id}" is no pid of this host', hint="give the number that `ps` shows")
    pid = int(number)
    stat = stat_of(pid)
    if stat is None or stat[0] in "ZX":
        raise ProviderError(f"no process {pid} runs on {host_name()}", reason="NotFound")
    if pid == 1 or pid in _ancestors():
        raise ProviderError(f"process {pid} is what flowplan itself runs in")
    argv = _argv(pid)
    if not argv or Path(f"/proc/{pid}").stat().st_uid != os.geteuid():
        raise ProviderError(f"process {pid} belongs to another user, or to the system")
    handle = {"pid": pid, "start_time": stat[2], "boot_id": this_boot(), "host": host_name(), IMPORTED: True}
    started = started_at(stat[2])
    seen = Observed(
        "",
        status=Status.RUNNING,
        attempts=1,
        handle=handle,
        infrastructure_id=f"{host_name()}:{pid}",
        name=Path(argv[0]).name,
        started_at=started,
        at=started,
    )
    return Found(seen, objects=_content(pid, spec_dir), bare={"Process": {"argv": argv[:1]}})


def _content(pid: int, spec_dir: Path) -> Objects | None:
    """Return what a process of this user is, in a directory that is relative to the spec's if it is within; None when it
    has just ended.
    """
    try:
        cwd = Path(f"/proc/{pid}/cwd").readlink()
        base = spec_dir.resolve()
        place = cwd.relative_to(base) if cwd.is_relative_to(base) else cwd
        return {"Process": {"argv": _argv(pid), "cwd": str(place), "env": environment(pid)}}
    except OSError:
        return None


def _argv(pid: int) -> list[str]:
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(part) for part in data.split(b"\0")[:-1]]


def _ancestors() -> set[int]:
    pid, found = os.getpid(), set()
    while pid > 1:
        found.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            break
    return found
