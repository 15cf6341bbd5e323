"""The script of a job: what everybody may read, and the secrets, which stand in a file beside it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

from flowplan.schemas.runs import Objects
from flowplan.schemas.secrets import TOKEN, tokens_in

OUTPUT = "output"
"""Name of the file that a job writes."""

SCRIPT = "script"
"""Name of the file of the script in the directory of a job."""

SECRETS = "secrets"
"""Name of the file of the secrets in the directory of a job."""

BEGUN = "begun"
"""Name of the file that says that the script is there to hear signals."""

_MARK = "# flowplan-objects: "


def script(objects: Objects, place: str, cwd: str) -> str:
    """Return the batch script of a job; tokens in it are variables that the file of secrets sets.

    The command is no ``exec``, because the secrets are removed after it. A signal is for the command, and the shell waits
    on; before there is one, it ends the job. Where Slurm may start the job again, a signal may mean just that, and the
    secrets stay.

    Args:
        place: the directory of the job.
        cwd: where the command is started, absolute.
    """
    job = objects["SlurmJob"]
    names = _variables(objects)
    secrets = shlex.quote(f"{place}/{SECRETS}")
    lines = ["#!/bin/sh", f"{_MARK}{json.dumps(objects, ensure_ascii=True, sort_keys=True)}"]
    lines.append("""trap '[ "$begun" ] || exit 143; signal=1' HUP INT TERM USR1 USR2""")
    lines.append(f": > {shlex.quote(f'{place}/{BEGUN}')}")
    lines.append("export SLURM_EXPORT_ENV=ALL  # what srun starts has this environment")
    if names:
        lines.append(f". {secrets} || exit 125")
    for name, value in job["env"].items():
        lines.append(f"unset {name}" if value is None else f"export {name}={_word(value, names)}")
    lines.append(f"cd -- {shlex.quote(cwd)} || exit 125")
    lines += ["begun=1", " ".join(_word(text, names) for text in job["argv"]), "code=$?"]
    if names:
        unless = '[ "$signal" ] || ' if job.get("requeue") else ""
        lines.append(f"{unless}command -p rm -f -- {secrets}")
    return "\n".join([*lines, 'exit "$code"', ""])


def secrets(objects: Objects, values: Mapping[str, str]) -> str:
    """Return the file that sets the variables of a job's secrets; "" when it has none."""
    names = _variables(objects)
    return "".join(f"{names[token]}={shlex.quote(values.get(token, token))}\n" for token in names)


def values_of(text: str) -> list[str]:
    """Return the values in a file of secrets."""
    return [part.partition("=")[2] for part in shlex.split(text) if part.partition("=")[2]]


def objects_of(text: str) -> Objects | None:
    """Return the objects that a script was made of; None for a script of somebody else."""
    for line in text.splitlines():
        if line.startswith(_MARK):
            found: Objects = json.loads(line.removeprefix(_MARK))
            return found
    return None


def _variables(objects: Objects) -> dict[str, str]:
    return {token: f"FLOWPLAN_SECRET_{number}" for number, token in enumerate(sorted(tokens_in(objects)), 1)}


def _word(text: str, names: Mapping[str, str]) -> str:
    """Return a text as one word of sh, with variables in the place of tokens."""
    pieces, at = [], 0
    for found in TOKEN.finditer(text):
        pieces += [_quoted(text[at : found.start()]), f'"${{{names[found.group(0)]}}}"']
        at = found.end()
    return "".join([*pieces, _quoted(text[at:])]) or "''"


def _quoted(text: str) -> str:
    return shlex.quote(text) if text else ""
