"""The doing half of ``process``: creates, observes, follows and ends processes of this host."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flowplan.providers.process import discovery, marks, output, redaction
from flowplan.providers.process.lookup import Problem, find_problem
from flowplan.providers.process.procfs import (
    alive,
    elsewhere,
    end_group,
    end_process,
    end_rest,
    environment,
    host_id,
    host_name,
    leads_group,
    require_linux,
    supervised,
)
from flowplan.providers.process.runfiles import RunFiles, identity_of, left_over, look
from flowplan.providers.process.supervision import Supervision, full
from flowplan.providers.process.watching import watch
from flowplan.providers.protocol import IMPORTED, Context, Found, LogLine, News, Order
from flowplan.schemas.arguments import explanation, too_long
from flowplan.schemas.errors import ProviderError, Refused, StartFailed
from flowplan.schemas.faults import point
from flowplan.schemas.forms import forms_of
from flowplan.schemas.limits import core_before
from flowplan.schemas.places import refuse_foreign
from flowplan.schemas.plans import FieldChange, Finding
from flowplan.schemas.runs import Objects, Observed, Recorded, Target
from flowplan.schemas.secrets import Redactor, reveal, tokens_in

DEFAULT_GRACE = 30.0
END_TIMEOUT = 5.0
"""Seconds that a supervisor may take to end what a run has left, and to record its end."""
START_TIMEOUT = 30.0
"""Seconds to try again while another flowplan is starting the same run, or its child is killed before it starts."""


class ProcessProvider:
    """Runs as processes of this host; their files are in ``context.runs_dir``.

    Raises:
        ProviderError: this is not a Linux host with /proc.
        Refused: another user prepared the directory of those files.
    """

    tells_elsewhere = True

    def __init__(self, context: Context) -> None:
        require_linux()
        self._lineage, self._project, self._created_from = context.lineage, context.project, context.created_from
        self._environment = context.environment
        self._runs_dir = context.runs_dir.absolute()
        self._spec_dir = context.spec_dir.absolute()
        refuse_foreign(self._runs_dir)
        self._supervision = Supervision(self._runs_dir)
        self._scans = marks.Scans()

    def target(self) -> Target:
        """Return this host; the boot is part of each process's identity, so that history survives a restart."""
        return Target("process", host_id(), host_name())

    def close(self) -> None:
        """Hang up; the runs go on."""
        self._supervision.close()

    # -- reading

    def observe(self, records: Sequence[Recorded], wanted: Iterable[Objects] | None = None) -> list[Observed]:
        """Observe every record, and every attempt that no record names: of our lineage those with files here
        and those that run, of other lineages of the project those that run.
        """
        processes = self._scans.all()
        seen = [self._look(record) for record in records] + self._unknown({record.run_id for record in records})
        known = {one.run_id for one in seen}
        for one in marks.leaders(processes):
            here = (one.project, one.environment) == (self._project, self._environment)
            ours = one.lineage == self._lineage or (self._project != "" and here)
            if ours and one.run_id not in known:
                seen.append(discovery.live(one, self._lineage))
        return seen

    def _look(self, record: Recorded) -> Observed:
        return look(self._files(record.run_id), record, self._scans.of)

    def _files(self, run_id: str) -> RunFiles:
        return RunFiles(self._runs_dir / run_id, run_id)

    def _unknown(self, known: set[str]) -> list[Observed]:
        try:
            with os.scandir(self._runs_dir) as entries:
                names = [entry.name for entry in entries if entry.is_dir() and entry.name not in known]
        except FileNotFoundError:
            return []
        found = []
        for files in map(self._files, sorted(names)):
            record = files.record()
            if record is None or record.destroyed or (record.end or {}).get("failure"):
                continue  # a failed start leaves nothing behind
            if record.owner.get("lineage") == self._lineage and record.owner.get("host_id") == host_id():
                found.append(look(files, None, self._scans.of, record))
        return [one for one in found if one.exists]

    def watch(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[News]:
        """Yield every change of the records until all have ended; one file is looked at, whatever their number."""
        return watch(self._runs_dir / "journal", records, self._look, stop)

    def logs(
        self, record: Recorded, *, follow: bool, tail: int | None, stop: threading.Event | None = None
    ) -> Iterator[LogLine]:
        """Yield what the run wrote to stdout and stderr, in the order in which it wrote it.

        Raises:
            Refused: it is on another host.
        """
        files = self._files(record.run_id)
        if record.target.get("id", host_id()) != host_id() and not files.directory.is_dir():
            raise _refused(record, str(record.target.get("label") or record.target["id"]))
        return output.read(
            files.directory,
            tail=tail,
            follow=follow,
            stop=stop or threading.Event(),
            ended=lambda: look(files, record, self._scans.of).over,
        )

    def secret_values(self, record: Recorded) -> list[str]:
        """Return the values behind the tokens of a live run, from the environment that it was started with."""
        started = identity_of(self._files(record.run_id).record(), record)
        if started is None or elsewhere(started) or not alive(started):
            return []
        env = record.objects.get("Process", {}).get("env", {})
        live = environment(started["pid"])
        return redaction.values_behind_tokens(env, live)

    def keeps_timeout(self, record: Recorded) -> bool:
        """Return whether a supervisor ends the run at its time limit, or the run is where we could not do so."""
        started = identity_of(self._files(record.run_id).record(), record)
        return started is None or bool(elsewhere(started)) or supervised(started)

    def find(self, project: str, wanted: Sequence[Objects] = ()) -> list[Found]:
        """Return the attempts with files beside the state that run, or of which the end is known."""
        return discovery.of_project(self._runs_dir, project, self._environment, self._scans, self._spec_dir)

    def describe(self, object_id: str) -> Found:
        """Return a process of this host by its pid.

        Raises:
            ProviderError: there is none, or it is not ours to manage.
        """
        return discovery.process(object_id, self._spec_dir)

    def preflight(self, orders: Sequence[Order]) -> list[Finding]:
        """Find executables and working directories that are missing."""
        seen: dict[tuple[str, str | None, str], Problem | None] = {}
        findings = []
        for order in orders:
            key = self._place(order)
            if key not in seen:
                seen[key] = find_problem(*key)
            problem = seen[key]
            if problem:
                message = _concealed(problem.message, order)
                findings.append(Finding(order.identity.address, "error", problem.check, message, problem.hint))
        return findings

    # -- creating

    def create(self, order: Order) -> Observed:
        """Start the attempt, or adopt it if it was started already.

        Raises:
            StartFailed: executable or working directory are missing, or not usable.
            Refused: it was started with other content.
            ProviderError: the attempt was removed, or the supervisor cannot work.
        """
        files = self._files(order.identity.run_id)
        try:
            before = files.open(order.identity, order.name, order.objects)
        except OSError as error:
            raise ProviderError(f"{files.directory} cannot be written: {error.strerror}") from error
        if not before.started and not before.over:
            self._start(order)
        after = files.record()
        if after and after.end and after.end["failure"]:
            raise self._start_failed(order, after.end)
        return look(files, None, self._scans.of)

    def _start(self, order: Order) -> None:
        request = _request(order, self._directory(order))
        request["env"].pop(marks.ENVIRONMENT, None)  # of a run that flowplan itself is
        request["env"] |= marks.variables(order.identity, self._created_from)
        deadline = time.monotonic() + START_TIMEOUT
        while (state := self._supervision.start(request)) in ("busy", "died"):
            if time.monotonic() > deadline:
                raise ProviderError(f"the process could not be started within {START_TIMEOUT:.0f} s ({state})")
            time.sleep(0.02)
        if state == "stopped":
            raise ProviderError("this attempt was stopped or removed; it is not started again", reason="Stopped")
        if state == "full":
            raise full()
        if state not in ("started", "failed"):
            raise ProviderError(state, reason="SupervisorRefused")

    def _directory(self, order: Order) -> str:
        """Return where a run is started: the directory of its object, which may be relative to the spec."""
        place: str = order.objects["Process"]["cwd"]
        return os.path.normpath(self._spec_dir / place)

    def _place(self, order: Order) -> tuple[str, str | None, str]:
        """Return program, PATH and directory of a run, with which it is looked for."""
        program = reveal(order.objects["Process"]["argv"][0], order.secrets)
        return program, _environment(order).get("PATH"), self._directory(order)

    def _start_failed(self, order: Order, ended: Mapping[str, Any]) -> StartFailed:
        problem = find_problem(*self._place(order))
        why = problem.message if problem else f'"{self._place(order)[0]}": {os.strerror(ended["failure"]["errno"])}'
        if ended["failure"]["errno"] == errno.E2BIG:
            longest = 32 * os.sysconf("SC_PAGESIZE") - 1  # MAX_ARG_STRLEN, see execve(2)
            found = next(too_long(order.objects, order.secrets, longest=longest), None)
            together = "the arguments and variables together are longer than the system takes"
            why = explanation(*found, longest) if found else together
        return StartFailed(
            _concealed(why, order),
            hint=problem.hint if problem else "",
            address=order.identity.address,
            reason=ended["reason"],
            exit_code_of_run=ended["exit_code"],
        )

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Observed:
        """Refuse: a process cannot be changed.

        Raises:
            ProviderError: always.
        """
        raise ProviderError("a process cannot be changed once started; it must be replaced", address=record.address)

    # -- deleting

    def delete(self, record: Recorded, grace: float) -> None:
        """End the process group; the files stay, so that the history can be read.

        Raises:
            Refused: the process is on another host.
            ProviderError: it does not end.
        """
        files = self._files(record.run_id)
        found = files.record()
        started = identity_of(found, record)
        where = elsewhere(started) if started else record.target.get("id", host_id()) != host_id()
        if where and not (found and found.over):
            raise _refused(record, str(where if started else record.target.get("label") or record.target["id"]))
        if found and found.destroyed:
            return
        if files.directory.is_dir():
            with files.claimed():  # from here on it cannot be started
                files.add({"stop": True})
                found = files.record()
            point("process:stop:after")
            started = identity_of(found, record)
        left = ""
        if started and not where:
            left = self._end(files, started, grace)
            point("process:end:after")
        if files.directory.is_dir():
            files.add({"destroyed": True})
        if left:
            raise ProviderError(f"{left}; end it by hand", address=record.address)

    def discard(self, known: Collection[str]) -> int:
        """Remove the directories of attempts that were removed, except of the ``known`` ones; return the bytes of it.

        The journal is emptied: supervisors append to it, and whoever watches begins anew with a shorter one.
        """
        size = 0
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self._runs_dir / "journal", 0)
        for path in self._runs_dir.iterdir() if self._runs_dir.is_dir() else ():
            record = self._files(path.name).record() if path.is_dir() and path.name not in known else None
            if record and record.destroyed and record.owner.get("lineage") == self._lineage:
                size += sum(file.stat().st_size for file in path.iterdir())
                shutil.rmtree(path)
                point("process:discard:after")
        return size

    def _end(self, files: RunFiles, started: Mapping[str, Any], grace: float) -> str:
        """End all that the run consists of; what may be left of it, in words."""
        if alive(started):
            whole = not started.get(IMPORTED) or leads_group(int(started["pid"]))
            if not (end_group if whole else end_process)(started, grace):
                raise ProviderError(f"process {started['pid']} does not end, not even by SIGKILL")
        if started.get(IMPORTED):
            return ""
        end = _end_told(files, started)
        left = (
            end_rest(lambda: [one.pid for one in marks.scan() if one.run_id == files.run_id], grace) if not end else ()
        )
        if left:
            raise ProviderError(f"what it started does not end: {', '.join(map(str, left))}")
        return left_over(end) if end and end.get("left") else ""


def _refused(record: Recorded, where: str) -> Refused:
    """Return the error for a run of another host or user, to which nothing can be done from here."""
    return Refused(
        f"it runs on {where}; this is {host_name()}, as user {os.geteuid()}, and nothing was done to it",
        hint=f"use flowplan there; if that host is gone, `flowplan state rm {record.address}` forgets the run",
        address=record.address,
    )


def _end_told(files: RunFiles, started: Mapping[str, Any]) -> dict[str, Any] | None:
    """Wait until a supervisor has ended what the run left and recorded the end; None when there is no supervisor."""
    deadline = time.monotonic() + END_TIMEOUT
    while True:
        found = files.record()
        if found and found.end:
            return found.end
        if found is None or found.lost or not supervised(started) or time.monotonic() > deadline:
            return None
        time.sleep(0.005)


def _request(order: Order, directory: str) -> dict[str, Any]:
    process = order.objects["Process"]
    argv, env = reveal(process["argv"], order.secrets), _environment(order)
    used = tokens_in(process["env"]) | tokens_in(process["argv"])
    own = (order.secrets.get(token, "") for token in used)
    hidden = forms_of(redaction.known_to([*argv, *env.values()], own, order.secrets.values()))
    return {
        "id": order.identity.run_id,
        "address": order.identity.address,
        "argv": argv,
        "cwd": directory,
        "env": env,
        "timeout": process.get("timeout"),
        "retries": process.get("retries", 0),
        "retry_delay": process.get("retry_delay"),
        "grace": process.get("grace_period", DEFAULT_GRACE),
        "core": core_before(),
        "log_limit": process.get("log_limit"),
        "redact": {kind: sorted(forms) for kind, forms in hidden._asdict().items() if forms},
    }


def _environment(order: Order) -> dict[str, str]:
    """Return what the run gets: what it inherits, then its own; ``null`` takes an inherited variable away."""
    process = order.objects["Process"]
    inherit = process.get("inherit_env", True)
    if inherit is True:
        env = dict(os.environ)
    else:
        env = {name: os.environ[name] for name in inherit or () if name in os.environ}
    for name, value in reveal(process["env"], order.secrets).items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def _concealed(text: str, order: Order) -> str:
    """Return ``text`` without secret values."""
    return Redactor(order.secrets.values())(text)
