"""The doing half of ``process``: creates, observes, follows and ends processes of this host."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flowplan.providers.process import finding, marks, output, redaction
from flowplan.providers.process.lookup import Problem, find_problem
from flowplan.providers.process.procfs import (
    alive,
    end_group,
    end_process,
    environment,
    host_id,
    host_name,
    kill,
    leads_group,
    require_linux,
    stragglers,
    this_boot,
)
from flowplan.providers.process.runfiles import RunFiles, identity_of, look, refuse_elsewhere
from flowplan.providers.process.supervision import Supervision, full
from flowplan.providers.process.watching import watch
from flowplan.providers.protocol import IMPORTED, Context, Found, LogLine, Order
from flowplan.schemas.errors import ProviderError, Refused, StartFailed
from flowplan.schemas.faults import point
from flowplan.schemas.forms import forms_of
from flowplan.schemas.limits import core_before
from flowplan.schemas.places import refuse_foreign
from flowplan.schemas.plans import FieldChange, Finding
from flowplan.schemas.runs import Objects, Observed, Recorded, Target
from flowplan.schemas.secrets import Redactor, reveal, tokens_in

DEFAULT_GRACE = 30.0
START_PATIENCE = 30.0
"""Seconds to go on while another flowplan is starting the same run, or somebody kills it before it starts."""


class ProcessProvider:
    """Runs as processes of this host; their files are in ``context.runs_dir``.

    Raises:
        ProviderError: this is not a Linux host with /proc.
        Refused: another user prepared the directory of those files.
    """

    def __init__(self, context: Context) -> None:
        require_linux()
        self._lineage, self._project = context.lineage, context.project
        self._runs_dir = context.runs_dir.absolute()
        refuse_foreign(self._runs_dir)
        self._supervision = Supervision(self._runs_dir)

    def target(self) -> Target:
        """This host; the boot is part of each process's identity, so that history survives a restart."""
        return Target("process", host_id(), host_name())

    def close(self) -> None:
        """Hang up; the runs go on."""
        self._supervision.close()

    # -- reading

    def observe(self, records: Sequence[Recorded]) -> list[Observed]:
        """What is true of every record, and of every attempt that no record names: of our lineage those whose files are here
        and those that run, of other lineages of the project those that run.

        Raises:
            Refused: a record is of another host.
        """
        seen = [self._look(record) for record in records] + self._unknown({record.run_id for record in records})
        known = {one.run_id for one in seen}
        marked = [one for one in marks.leaders(marks.scan()) if one.run_id not in known]
        return seen + [finding.live(one, self._lineage) for one in marked if self._concerns(one)]

    def _concerns(self, one: marks.Marked) -> bool:
        return one.lineage == self._lineage or (self._project != "" and one.project == self._project)

    def _look(self, record: Recorded) -> Observed:
        self._refuse_other_host(record)
        return look(self._files(record.run_id), record)

    def _files(self, run_id: str) -> RunFiles:
        return RunFiles(self._runs_dir / run_id, run_id)

    def _refuse_other_host(self, record: Recorded) -> None:
        if record.target.get("id", host_id()) != host_id():
            where = record.target.get("label") or record.target["id"]
            raise Refused(
                f"the process runs on a different host ({where}); this is {host_name()}",
                hint="use flowplan there",
                address=record.address,
            )

    def _unknown(self, known: set[str]) -> list[Observed]:
        try:
            with os.scandir(self._runs_dir) as entries:
                names = [entry.name for entry in entries if entry.is_dir() and entry.name not in known]
        except FileNotFoundError:
            return []
        seen = (look(files, None) for files in map(self._files, sorted(names)) if self._is_orphan(files))
        return [one for one in seen if one.exists]

    def _is_orphan(self, files: RunFiles) -> bool:
        """Ours, not removed, and really started: a start that failed left nothing behind."""
        if files.has("destroyed"):
            return False
        whose = files.read("run.json")
        if not whose or whose.get("lineage") != self._lineage or whose.get("host_id") != host_id():
            return False
        return not (files.read("exit.json") or {}).get("failure")

    def watch(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[Observed | None]:
        """Every change of the records until all have ended: one file is looked at, whatever their number."""
        return watch(self._runs_dir / "journal", records, self._look, stop)

    def logs(
        self, record: Recorded, *, follow: bool, tail: int | None, stop: threading.Event | None = None
    ) -> Iterator[LogLine]:
        """The output; while following in the order in which it appears, afterwards stdout, then stderr."""
        self._refuse_other_host(record)
        files = self._files(record.run_id)
        return output.read(
            files.directory,
            tail=tail,
            follow=follow,
            stop=stop or threading.Event(),
            ended=lambda: _over(look(files, record)),
        )

    def secret_values(self, record: Recorded) -> list[str]:
        """The values behind the tokens of a live run, from the environment that it was started with."""
        started = identity_of(self._files(record.run_id), record)
        if started is None or not alive(started):
            return []
        env = record.objects.get("Process", {}).get("env", {})
        live = environment(started["pid"])
        return redaction.values_behind_tokens(env, live)

    def find(self, project: str, wanted: Sequence[Objects] = ()) -> list[Found]:
        """The attempts whose files are beside the state, of those that run or whose end is known."""
        return finding.of_project(self._runs_dir, project)

    def describe(self, object_id: str) -> Found:
        """A process of this host by its pid.

        Raises:
            ProviderError: there is none, or it is not ours to manage.
        """
        return finding.process(object_id)

    def preflight(self, orders: Sequence[Order]) -> list[Finding]:
        """Executables and working directories that are missing."""
        seen: dict[tuple[str, str | None, str], Problem | None] = {}
        findings = []
        for order in orders:
            key = _place(order)
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
            files.open(order.identity, order.name, order.objects)
        except OSError as error:
            raise ProviderError(f"{files.directory} cannot be written: {error.strerror}") from error
        if not files.started() and not files.has("exit.json"):
            self._start(files, order)
        failure = (files.read("exit.json") or {}).get("failure")
        if failure:
            raise _start_failed(order, files, failure)
        return look(files, None)

    def _start(self, files: RunFiles, order: Order) -> None:
        request = _request(order)
        deadline = time.monotonic() + START_PATIENCE
        while (state := self._supervision.start(request)) in ("busy", "died"):
            if time.monotonic() > deadline:
                raise ProviderError(f"the process could not be started within {START_PATIENCE:.0f} s ({state})")
            time.sleep(0.02)
        if state == "stopped":
            raise ProviderError("this attempt was stopped or removed; it is not started again", reason="Stopped")
        if state == "full":
            raise full()
        if state not in ("started", "failed"):
            raise ProviderError(state, reason="SupervisorRefused")

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Observed:
        """Never possible.

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
        self._refuse_other_host(record)
        files = self._files(record.run_id)
        if files.directory.is_dir():
            if files.has("destroyed"):
                return
            files.mark("stop")
            point("process:stop:after")
            with files.claimed():  # from here on nobody starts it
                started = identity_of(files, record)
        else:
            started = identity_of(files, record)
        if started:
            self._end(files, started, grace)
            point("process:end:after")
        if files.directory.is_dir():
            files.mark("destroyed")

    def _end(self, files: RunFiles, started: Mapping[str, Any], grace: float) -> None:
        if started.get("boot_id") != this_boot():
            return
        refuse_elsewhere(started)
        if alive(started):
            whole = not started.get(IMPORTED) or leads_group(int(started["pid"]))
            if not (end_group if whole else end_process)(started, grace):
                raise ProviderError(f"process {started['pid']} does not end, not even by SIGKILL")
            _await_record(files, started)
        elif not files.has("exit.json"):
            kill(stragglers(started["pid"], files.directory))


def _over(seen: Observed) -> bool:
    return not seen.exists or (seen.status is not None and seen.status.final)


def _await_record(files: RunFiles, started: Mapping[str, Any]) -> None:
    """Give the supervisor a moment to write down the end, so that the history tells it."""
    supervisor = started.get("supervisor")
    deadline = time.monotonic() + 2.0
    while supervisor and not files.has("exit.json") and time.monotonic() < deadline:
        if not alive({**supervisor, "boot_id": started["boot_id"]}):
            return
        time.sleep(0.005)


def _request(order: Order) -> dict[str, Any]:
    process = order.objects["Process"]
    argv, env = reveal(process["argv"], order.secrets), _environment(order)
    used = tokens_in(process["env"]) | tokens_in(process["argv"])
    own = (order.secrets.get(token, "") for token in used)
    hidden = forms_of(redaction.known_to([*argv, *env.values()], own, order.secrets.values()))
    return {
        "id": order.identity.run_id,
        "address": order.identity.address,
        "argv": argv,
        "cwd": process["cwd"],
        "env": env,
        "timeout": process.get("timeout"),
        "retries": process.get("retries", 0),
        "grace": process.get("grace_period", DEFAULT_GRACE),
        "core": core_before(),
        "redact": {kind: sorted(forms) for kind, forms in hidden._asdict().items() if forms},
    }


def _environment(order: Order) -> dict[str, str]:
    """What the run gets: what it inherits, then its own; ``null`` takes an inherited variable away (P2, C8)."""
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
    return env | marks.variables(order.identity)


def _place(order: Order) -> tuple[str, str | None, str]:
    """Program, PATH and directory of a run, with which it is looked for."""
    process = order.objects["Process"]
    return reveal(process["argv"][0], order.secrets), _environment(order).get("PATH"), process["cwd"]


def _concealed(text: str, order: Order) -> str:
    """``text`` without secret values."""
    return Redactor(order.secrets.values())(text)


def _start_failed(order: Order, files: RunFiles, failure: Mapping[str, Any]) -> StartFailed:
    ended = files.read("exit.json") or {}
    problem = find_problem(*_place(order))
    why = problem.message if problem else f'"{_place(order)[0]}": {os.strerror(failure["errno"])}'
    return StartFailed(
        _concealed(why, order),
        hint=problem.hint if problem else "",
        address=order.identity.address,
        reason=ended["reason"],
        exit_code_of_run=ended["exit_code"],
    )
