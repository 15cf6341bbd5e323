"""Secrets that a source has written out: where they are found, by names and forms, and the references in their places."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from flowplan.planner.desired import expressions
from flowplan.planner.importing import VARIABLE, Expression, Hidden, Imported, Secret

_WORDS = r"(?:password|passwd|passphrase|secret|token|credentials?|api[-_]?key|access[-_]?key|secret[-_]?key|private[-_]?key)"
_NAME = re.compile(rf"(?:{_WORDS}|encryption[-_]?key|_pwd|_pass|_dsn|webhook_url)$", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/@\s:]*:[^/@\s]+@", re.IGNORECASE)
_NONE = re.compile(r"(?:/.*|\$\([^)]*\)|\$\{[^}]*\}|true|false|yes|no|none|null)?", re.IGNORECASE)
_FLAG = re.compile(rf"--?[\w-]*{_WORDS}", re.IGNORECASE)
_IN_TEXT = re.compile(
    rf"((?<![\w-])--?[\w-]*{_WORDS}[= ]|\b\w*{_WORDS}=|\b[a-z][a-z0-9+.-]*://[^/@\s:]*:(?=[^/@\s]+@))([^\s\"'`$@&;|()<>]+)",
    re.IGNORECASE,
)
"""A flag, a variable or a URL that gives a secret, and the secret."""


def looks_secret(name: str, value: str) -> bool:
    """Return whether a variable is likely to hold a secret, by its name or as the URL of an account."""
    return bool(_URL.match(value) or (_NAME.search(name) and not _NONE.fullmatch(value)))


def hide_in_commands(run: Imported) -> None:
    """Put sensitive variables in place of what looks like a secret in the commands of a run and of its other containers."""
    for words, place in list(_commands(run.fields)):
        for index, word in enumerate(words):
            if isinstance(word, Expression) or not isinstance(word, str):
                continue
            if (
                index
                and _FLAG.fullmatch(str(words[index - 1]))
                and not word.startswith("-")
                and not _NONE.fullmatch(word)
            ):
                words[index] = Expression(_hidden(run, str(words[index - 1]), word, f"{place}[{index}]"))
            elif any(not _NONE.fullmatch(found[2]) for found in _IN_TEXT.finditer(word)):
                words[index] = _replaced(run, word, f"{place}[{index}]")


def _commands(fields: dict[str, Any]) -> Iterator[tuple[list[Any], str]]:
    """Yield the lists of words of a run's commands, as copies that are put into the fields, and their places."""
    holders = [(fields, key, key) for key in ("entrypoint", "command")]
    pod: Any = (fields.get("kubernetes") or {}).get("job") or {}
    for key in ("spec", "template", "spec"):
        pod = pod.get(key) or {}
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(pod.get(kind) or ()):
            holders += [(container, key, f"{kind}[{index}].{key}") for key in ("command", "args")]
    for holder, key, place in holders:
        if isinstance(holder.get(key), list):
            holder[key] = list(holder[key])
            yield holder[key], place


def _replaced(run: Imported, text: str, place: str) -> Expression:
    written, end = "", 0
    for found in _IN_TEXT.finditer(text):
        if not _NONE.fullmatch(found[2]):
            written += expressions.escape(text[end : found.start(2)]) + _hidden(run, found[1], found[2], place)
            end = found.end()
    return Expression(written + expressions.escape(text[end:]))


def _hidden(run: Imported, before: str, value: str, place: str) -> str:
    """Note a secret, and return the expression that stands for it."""
    word = re.sub(r"\W+", "_", before.partition("://")[0]).strip("_")
    name, count = re.sub(r"\W", "_", f"{run.name}_{word}").lower(), 1
    name = name if name[0].isalpha() else f"_{name}"
    secret = Secret(VARIABLE, name)
    while secret in run.secrets and run.secrets[secret].value != value:
        count += 1
        secret = Secret(VARIABLE, f"{name}_{count}")
    run.secrets[secret] = Hidden(value, place, run.at(""))
    return f"${{var.{secret.name}}}"
