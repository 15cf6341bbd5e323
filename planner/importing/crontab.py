"""Lines of a crontab as runs: the same command, by the same shell, in the directory and environment that cron gives it."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from flowplan.planner.importing import (
    ENVIRONMENT,
    NO_SCHEDULE,
    Around,
    Hidden,
    Imported,
    Remark,
    Secret,
    Source,
    run_name,
)
from flowplan.planner.importing.secrets import looks_secret
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.runs import Json, Objects
from flowplan.schemas.sources import Diagnostic, Position

_FIELD = r"[0-9A-Za-z*/,\-~?]+"
_SCHEDULE = re.compile(rf"\s*(@[a-z]+|{_FIELD}(?:[ \t]+{_FIELD}){{4}})[ \t]+(\S.*)")
_FIVE = re.compile(r"[*0-9]\S*(?:\s+[*0-9A-Za-z]\S*){4}")
_ASSIGNMENT = re.compile(r"""\s*(["']?)([A-Za-z_][A-Za-z0-9_]*)\1\s*=\s*(.*)""")
_NAMES = frozenset(
    f"@{name}" for name in ["reboot", "yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"]
)
_USER_COLUMN = re.compile(
    rf"^\s*#.*\bdow\b\s+user|^\s*(?:@[a-z]+|{_FIELD}(?:[ \t]+{_FIELD}){{4}})[ \t]+root[ \t]",
    re.IGNORECASE | re.MULTILINE,
)
"""What tells the crontab of a system: a heading, or a command of root, which is the name of no program."""
_PERCENT = re.compile(r"(?<!\\)%")
_SHELL, _PATH = "/bin/sh", "/usr/bin:/bin"
_OF_CRON = {
    "MAILTO": "`notify` of the spec tells who is to know, and of what",
    "MAILFROM": "`notify` of the spec tells who is to know, and of what",
    "CRON_TZ": "it belongs to the schedule",
    "RANDOM_DELAY": "it belongs to the schedule",
}
"""Variables that cron itself reads, and what stands for them here."""
_NO_NAME = re.compile(
    r"[-A-Za-z_0-9]*=.*|-.*|[0-9]+[smh]?|\W+|(?:.*/)?(?:cd|test|\[|sh|bash|env|nice|ionice|flock|sudo|timeout|exec|python[0-9.]*|perl|ruby|node|php|java|root|\.|source)"
)
"""Words of a command that do not say what it is for."""


def is_crontab(text: str) -> bool:
    """Return whether the first line of a file that says something is one of a crontab."""
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#") or _ASSIGNMENT.fullmatch(line):
            continue
        found = _SCHEDULE.fullmatch(line)
        return bool(found and (found[1] in _NAMES or _FIVE.fullmatch(found[1])))
    return False


def imported(text: str, file: str, around: Around) -> Source:
    """Return the runs of all lines of a crontab.

    Raises:
        InvalidInput: every line that is none; or there is no line with a command.
    """
    for_all = file == "/etc/crontab" or "/cron.d/" in file or bool(_USER_COLUMN.search(text))
    variables: dict[str, tuple[str, Position]] = {}
    runs, remarks, faults = [], list[Remark](), list[Diagnostic]()
    for number, line in enumerate(text.splitlines(), 1):
        at = Position(file, number, 1)
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if given := _ASSIGNMENT.fullmatch(line):
            name, value = given[2], given[3].strip()
            value = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
            if name in _OF_CRON:
                remarks.append(Remark(name, "is for cron itself", _OF_CRON[name], at, False, value))
            else:
                variables[name] = value, at
            continue
        found = _SCHEDULE.fullmatch(line)
        if found is None or not (found[1] in _NAMES or _FIVE.fullmatch(found[1])):
            hint = "write minute hour day month weekday command, or NAME=value"
            faults.append(Diagnostic("is no line of a crontab", at, hint=hint))
        else:
            user, command = (*found[2].split(None, 1), "")[:2] if for_all else ("", found[2])
            runs.append(_run(found[1], user, command.strip(), dict(variables), at, around))
    if faults or not runs:
        raise InvalidInput(faults or [Diagnostic("no line has a command", Position(file, 1, 1))])
    return Source(runs, remarks)


def _run(
    schedule: str, user: str, written: str, variables: dict[str, tuple[str, Position]], at: Position, around: Around
) -> Imported:
    # An unescaped % ends the command: what follows is its standard input.
    command, *stdin = (part.replace("\\%", "%") for part in _PERCENT.split(written))
    values = {"SHELL": _SHELL, "PATH": _PATH} | {name: value for name, (value, _) in variables.items()}
    home = values.pop("HOME", around.home)
    process: dict[str, Json] = {
        "argv": [values["SHELL"], "-c", command],
        "cwd": posixpath.normpath(home),
        "env": values,
        "inherit_env": ["HOME", "LOGNAME", "USER"],
    }
    env: dict[str, Any] = dict(values)
    run = Imported(_name(command), f"line {at.line}", {}, {"Process": process}, _plain, lambda pointer: at)
    for name, value in values.items():
        if looks_secret(name, value):
            env[name] = Secret(ENVIRONMENT, name)
            run.secrets[env[name]] = Hidden(value, name, variables[name][1])
    if "HOME" in variables:
        process["inherit_env"] = ["LOGNAME", "USER"]
        env["HOME"] = values["HOME"] = home
    run.fields = {
        "provider": "process",
        "description": f"crontab: {schedule}",
        "command": process["argv"],
        "working_dir": home,
        "env": env,
        "rerun": "always",
        "process": {"inherit_env": process["inherit_env"]},
    }
    run.remarks.append(Remark("schedule", "says when, not what", NO_SCHEDULE, at, False, schedule))
    if user and user != around.user:
        instead = f"have {user} call `flowplan apply`: a process runs as whoever applies"
        run.remarks.append(Remark("user", f"the run would be one of {around.user}", instead, at, value=user))
    if stdin:
        instead = "write it into the command: printf '...' | command"
        run.remarks.append(Remark("%", "a run has no standard input", instead, at, value="\n".join(stdin)))
    return run


def _name(command: str) -> str:
    """Return what a command is for: the name of the first word that says it."""
    words = re.split(r"[\s;&|()]+", command)
    skip = False
    for word in words:
        word, skip_this = word.strip("\"'"), skip
        skip = word in ("cd", "-n", "-c")  # what follows is a directory or a value
        if word and not skip_this and not _NO_NAME.fullmatch(word):
            return run_name(re.sub(r"\.(?:sh|py|pl|rb|php|js)$", "", posixpath.basename(word))).lower()
    return "command"


def _plain(rendered: Objects) -> Objects:
    process = rendered["Process"]
    return {"Process": {key: process[key] for key in ("argv", "cwd", "env", "inherit_env") if key in process}}
