"""Batch scripts of Slurm (``#SBATCH``) as runs: options become fields, the script itself is the command."""

from __future__ import annotations

import posixpath
import re
import shlex
from functools import partial
from typing import Any

from flowplan.planner.importing import (
    ENVIRONMENT,
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
from flowplan.schemas.quantities import written_duration
from flowplan.schemas.runs import Json, Objects
from flowplan.schemas.sources import Diagnostic, Position

_DIRECTIVE = re.compile(r"#SBATCH(.*)")
_SHORT = {
    "A": "account", "B": "extra-node-info", "C": "constraint", "D": "chdir", "F": "nodefile", "G": "gpus", "H": "hold",
    "I": "immediate", "J": "job-name", "L": "licenses", "M": "clusters", "N": "nodes", "O": "overcommit", "Q": "quiet",
    "S": "core-spec", "W": "wait", "a": "array", "b": "begin", "c": "cpus-per-task", "d": "dependency", "e": "error",
    "i": "input", "k": "no-kill", "m": "distribution", "n": "ntasks", "o": "output", "p": "partition", "q": "qos",
    "s": "oversubscribe", "t": "time", "v": "verbose", "w": "nodelist", "x": "exclude",
}  # fmt: skip
_FLAGS = frozenset(
    [
        "contiguous",
        "exclusive",
        "get-user-env",
        "hold",
        "ignore-pbs",
        "immediate",
        "kill-on-invalid-dep",
        "no-kill",
        "no-requeue",
        "overcommit",
        "oversubscribe",
        "parsable",
        "quiet",
        "reboot",
        "requeue",
        "spread-job",
        "test-only",
        "use-min-nodes",
        "verbose",
        "wait",
    ]
)
"""Options that may stand without a value."""
_OTHERWISE = {
    "array": (True, "write env: {SLURM_ARRAY_TASK_ID: '${each.task}'} and matrix: "),
    "clusters": (True, "an entry of `providers:` is one cluster"),
    "comment": (True, "flowplan keeps its own marks there: use labels"),
    "dependency": (True, "write needs: [RUN]"),
    "error": (False, "`flowplan logs` has the output, both streams in one"),
    "get-user-env": (True, "name what the script needs in env"),
    "hold": (True, "leave the run out until it is to start"),
    "input": (True, "read the file in the script"),
    "open-mode": (False, "`flowplan logs` has the output of each attempt"),
    "output": (False, "`flowplan logs` has the output, both streams in one"),
    **dict.fromkeys(("parsable", "quiet", "verbose", "wait", "test-only"), (False, "it is for who calls sbatch")),
}
"""Options that a run does not have -> whether what runs is another thing without them, and what to do."""
_PLACES = {"account": "account", "partition": "partition", "qos": "qos"}
_TIME = re.compile(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?|(\d+)(?::(\d+))?(?::(\d+))?)")
_MEMORY = re.compile(r"(\d+)([KMGT]?)B?", re.IGNORECASE)
_TAKES_TEXT = re.compile(r"(?:ba|da|z|k)?sh|python[0-9.]*")
_WANTED = (
    "argv",
    "cwd",
    "env",
    "partition",
    "account",
    "qos",
    "cpus",
    "memory",
    "gpus",
    "time_limit",
    "requeue",
    "options",
)


def is_batch_script(text: str) -> bool:
    """Return whether a text is a script with options for sbatch."""
    return bool(re.search(r"(?m)^#SBATCH\b", text))


def imported(text: str, file: str, around: Around) -> Source:
    """Return the run of a script.

    Raises:
        InvalidInput: an option is none, or the script is for an interpreter that takes it from a file only.
    """
    script = _Script(file)
    options, body = script.parts(text)
    title = posixpath.basename(file) or file
    wanted: dict[str, Json] = {"env": {}, "argv": script.argv(text, body)}
    plain, name = partial(_plain, wanted), run_name(title.rpartition(".")[0] or title)
    run = Imported(name, f"script {title}", {}, {"SlurmJob": wanted}, plain, script.position)
    run.fields = {"provider": "slurm", "command": wanted["argv"]}
    script.take(run, options)
    wanted |= script.job
    run.remarks += script.remarks
    if faults := script.faults:
        raise InvalidInput(faults)
    if "export" not in options:
        instead = "name in env what the script needs, or load it there"
        run.remarks.append(
            Remark("--export", "the job does not get the environment of whoever submits", instead, lost=False)
        )
    return Source([run], [])


class _Script:
    """A batch script: ``lines`` has the line of each option, ``job`` what the options ask of Slurm."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[str, int] = {}
        self.faults: list[Diagnostic] = []
        self.remarks: list[Remark] = []
        self.job: dict[str, Json] = {}

    def position(self, pointer: str) -> Position:
        """Return where an option stands, or the script begins."""
        name = pointer.rpartition("/")[2]
        return Position(self.file, self.lines.get(name, 1), 1)

    def parts(self, text: str) -> tuple[dict[str, str], str]:
        """Return the options before the first command of the script, and the script without them."""
        options: dict[str, str] = {}
        body: list[str] = []
        for number, line in enumerate(text.splitlines(), 1):
            found = _DIRECTIVE.fullmatch(line)
            if found and all(not one.strip() or one.lstrip().startswith("#") for one in body):
                for name, value in self._options(found[1], number):
                    options[name], self.lines[name] = value, number
            elif not (number == 1 and line.startswith("#!")):
                body.append(line)
        return options, "\n".join(body).strip("\n") + "\n"

    def _options(self, text: str, line: int) -> list[tuple[str, str]]:
        try:
            words = shlex.split(text, comments=True)
        except ValueError as error:
            self._fault(line, f"is no option of sbatch: {error}")
            return []
        found: list[tuple[str, str]] = []
        while words:
            word = words.pop(0)
            name, sign, value = word.partition("=")
            if word.startswith("--"):
                name = name[2:]
            elif len(word) > 1 and word[0] == "-" and word[1] in _SHORT:
                name, value, sign = _SHORT[word[1]], word[2:].removeprefix("="), word[2:]
            elif word in ("hetjob", "packjob"):
                self._fault(line, "begins another part of a heterogeneous job", "write a run for each part")
                continue
            else:
                self._fault(line, f'"{word}" is no option of sbatch')
                continue
            if not sign and name not in _FLAGS:
                value = words.pop(0) if words else ""
                if not value:
                    self._fault(line, f"--{name} has no value")
            found.append((name, value))
        return found

    def _fault(self, line: int, message: str, hint: str = "") -> None:
        self.faults.append(Diagnostic(message, Position(self.file, line, 1), hint=hint))

    def take(self, run: Imported, options: dict[str, str]) -> None:
        """Put the options into the fields of the run, and what they mean to Slurm into ``job``."""
        fields = run.fields
        block: dict[str, Json] = {}
        others: dict[str, Json] = {}
        resources: dict[str, Json] = {}
        for name, value in options.items():
            gpus = re.fullmatch(r"gpu:(\d+)", value) if name == "gres" else None
            if name in _PLACES:
                block[name] = self.job[name] = value
            elif name == "job-name":
                run.name = run_name(value)
                fields["name"] = self.job["name"] = value
            elif name == "chdir":
                fields["working_dir"], self.job["cwd"] = value, posixpath.normpath(value)
            elif name == "cpus-per-task" and value.isdigit():
                resources["cpu"] = self.job["cpus"] = int(value)
            elif name == "mem" and (size := self._memory(value)):
                whole = size % 2**30 == 0
                resources["memory"] = f"{size // 2**30}Gi" if whole else f"{size // 2**20}Mi"
                self.job["memory"] = size
            elif name == "time" and (seconds := self._seconds(value)):
                fields["timeout"], self.job["time_limit"] = written_duration(seconds), -(-seconds // 60) * 60
            elif gpus:
                resources["gpu"] = self.job["gpus"] = int(gpus[1])
            elif name in ("requeue", "no-requeue"):
                if name == "requeue":
                    block["requeue"] = self.job["requeue"] = True
            elif name == "export":
                self._export(run, fields, value)
            elif name in _OTHERWISE:
                lost, instead = _OTHERWISE[name]
                instead += _matrix(value) if name == "array" else ""
                self._remark(name, value, "is none of a run", instead, lost=lost)
            elif name in ("cpus-per-task", "mem", "time"):
                self._remark(name, value, "is no value that a run can have", "correct it in the spec", lost=True)
            else:
                others[name] = value if value else True
        if others:
            block["options"] = others
            self.job["options"] = dict(sorted(others.items()))
        fields |= {key: value for key, value in (("resources", resources), ("slurm", block)) if value}

    def _remark(self, name: str, value: str, why: str, instead: str, *, lost: bool) -> None:
        self.remarks.append(Remark(f"--{name}", why, instead, self.position(name), lost, value or None))

    def _export(self, run: Imported, fields: dict[str, Any], value: str) -> None:
        """Take the variables that ``--export`` names, with a value or from who submits."""
        env: dict[str, Any] = {}
        wanted: dict[str, Json] = {}
        for one in value.split(","):
            name, sign, text = one.partition("=")
            if name in ("NONE", "NIL", ""):
                continue
            if name == "ALL":
                told = "name in env what the script needs"
                self._remark("export", value, "the environment of whoever submits is not passed on", told, lost=True)
            elif not sign or looks_secret(name, text):
                env[name] = Secret(ENVIRONMENT, name)
                wanted[name] = text if sign else f"(sensitive env:{name} unresolved)"
                if sign:
                    run.secrets[env[name]] = Hidden(text, f"--export {name}", self.position("export"))
            else:
                env[name] = wanted[name] = text
        if env:
            fields["env"], self.job["env"] = env, wanted

    @staticmethod
    def _seconds(text: str) -> int:
        """Return the seconds of a time limit, 0 for what is none: ``90``, ``1:30``, ``1:30:00``, ``2-12``, ``2-12:30``."""
        found = _TIME.fullmatch(text)
        if not found:
            return 0
        days, hours, minutes, seconds, *plain = (int(part or 0) for part in found.groups())
        if found[1]:
            return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if found[7]:
            return (plain[0] * 60 + plain[1]) * 60 + plain[2]
        return plain[0] * 60 + plain[1]

    @staticmethod
    def _memory(text: str) -> int:
        """Return the bytes of a memory limit, which Slurm counts in mebibytes; 0 for what is none, or all of a node."""
        found = _MEMORY.fullmatch(text)
        factor = {"K": 2**10, "": 2**20, "M": 2**20, "G": 2**30, "T": 2**40}
        return -(-int(found[1]) * factor[found[2].upper()] // 2**20) * 2**20 if found else 0

    def argv(self, text: str, body: str) -> list[str]:
        """Return the command that runs the script: its interpreter, with the text of it."""
        first = text.splitlines()[0] if text else ""
        words = first[2:].split() if first.startswith("#!") else []
        by_env = [word for word in words[1:] if word != "-S"] if words and words[0].endswith("/env") else []
        name = posixpath.basename((by_env or words)[0]) if words else ""
        if not _TAKES_TEXT.fullmatch(name):
            hint = "write command: [INTERPRETER, FILE] in the spec, with a file that the nodes see"
            what = f"the interpreter {name} is not known to take a script as an argument" if name else "has no #! line"
            self._fault(1, what, hint)
        return [*words, "-c", body]


def _matrix(value: str) -> str:
    """Return the matrix whose cells are the tasks of an array: ``0-9``, ``1,3,5``, ``0-9%2`` (two at once)."""
    tasks, _, most = value.partition("%")
    whole = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?", tasks)
    step = f", step: {whole[3]}" if whole and whole[3] else ""
    axis = f"{{from: {whole[1]}, to: {whole[2]}{step}}}" if whole else f"[{tasks.replace(',', ', ')}]"
    axis = axis if whole or "-" not in tasks else f"[each of {tasks}]"
    return f"{{task: {axis}}}" + (f", max_parallel: {most}" if most else "")


def _plain(source: Any, rendered: Objects) -> Objects:
    """Return what a job asks for, without the marks of flowplan; name and directory only where the script says them."""
    job = rendered["SlurmJob"]
    return {
        "SlurmJob": {
            key: job[key] for key in (*_WANTED, "name") if key in job and (key not in ("name", "cwd") or key in source)
        }
    }
