"""Texts of a spec that are valid and mean nothing: expressions of other tools, and what only a shell would understand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from flowplan.schemas.load import LoadedSpec
from flowplan.schemas.pointers import members
from flowplan.schemas.sources import Diagnostic, Path

_ROOTS = "var|vars|variables|env|each|matrix|run|runs|project|secrets|inputs|params|github"
_SHELLS = frozenset(["sh", "bash", "dash", "ash", "zsh", "ksh", "busybox"])
_SCRIPTS = frozenset(["-c", "-lc", "-ec", "-e", "--eval", "-exec", "-execdir", "-ok"])
"""Options after which an argument may be a program, or end one."""
_SILENCE = "; `# flowplan: ignore` on the line silences this"


class _Pattern(NamedTuple):
    """A text that looks like a mistake, and what to write; ``hint`` gets the match and the names of the variables."""

    regex: re.Pattern[str]
    hint: Callable[[re.Match[str], Collection[str]], str | None]
    in_scripts: bool = True


def _expression(match: re.Match[str], variables: Collection[str]) -> str:
    return f"an expression is written ${{{match['inner'].strip()}}}"


_PATTERNS = (
    _Pattern(re.compile(r"\$\{\{(?P<inner>[^{}]*)\}\}"), _expression),
    _Pattern(re.compile(rf"(?<!\$)\{{\{{(?P<inner>\s*(?:{_ROOTS})\.[\w.]+\s*)\}}\}}"), _expression),
    _Pattern(
        re.compile(r"(?<!\$)\$\{(?:vars|variables)\.(?P<inner>\w+)\}"), lambda m, v: f"write ${{var.{m['inner']}}}"
    ),
    _Pattern(re.compile(r"(?<!\$)\$\{matrix\.(?P<inner>\w+)\}"), lambda m, v: f"write ${{each.{m['inner']}}}"),
    _Pattern(
        re.compile(r"(?<!\$)\$\{(?:env|secrets)\.(?P<inner>\w+)\}"),
        lambda m, v: f"write {{from_env: {m['inner']}}} as the value of a variable of env",
    ),
    _Pattern(
        re.compile(r"(?<!\$)\$\{(?:runs|needs|steps|jobs)\.[^}]+\}"),
        lambda m, v: "what other runs did cannot be used; only the run's own address, id and attempt: ${run.address}",
    ),
    _Pattern(
        re.compile(rf"(?<!\$)\$\{{\s*\w+\([^}}]*\b(?:{_ROOTS})\.[^}}]*\)\s*\}}"),
        lambda m, v: "expressions have no functions: give the value as a variable",
    ),
    _Pattern(
        re.compile(r"(?<!\$)\$\{(?P<inner>[A-Za-z_]\w*)\}"),
        lambda m, v: f"did you mean ${{var.{m['inner']}}}?" if m["inner"] in v else None,
        in_scripts=False,
    ),
    _Pattern(
        re.compile(r"^(?P<kind>from_env|from_file)\s*:\s*(?P<inner>\S+)$"),
        lambda m, v: f"a reference is written {{{m['kind']}: {m['inner']}}}",
    ),
)
_OPERATOR = re.compile(r"&&|\|\||\||;|&|(?:\d|&)?>>?(?:&\d)?|<<?<?")
_NAME = re.compile(r"(?<![\\$])\$(?:[A-Z_][A-Z0-9_]*|\{[A-Z_][A-Z0-9_]*\})|^~/\S*|^`[^`]+`$|(?<![\\$])\$\([^()]+\)")
_GLOB = re.compile(r"[^\s'\"]*[\w./-]\*[^\s'\"]*|\*\.\w+")


_OF_KUBERNETES = re.compile(r"\$\([A-Z_][A-Z0-9_]*\)")
"""A variable in a command of a container, which Kubernetes replaces."""
_TAKE_FILES = frozenset(["cat", "cp", "du", "gzip", "head", "ls", "mv", "rm", "tail", "wc", "zip"])
"""Programs that mean files by their arguments: a quoted glob would be the name of one."""


def mistakes(loaded: LoadedSpec, variables: Collection[str]) -> Iterator[Diagnostic]:
    """Yield a warning for every text of the runs and their defaults that looks like a mistake."""
    places: list[tuple[Any, Path]] = [(loaded.tree.get("defaults"), ("defaults",))]
    runs = loaded.tree.get("runs")
    places += [(run, ("runs", name)) for name, run in runs.items()] if isinstance(runs, Mapping) else []
    for run, path in places:
        if not isinstance(run, Mapping):
            continue
        scripts = set(_scripts(run, path))
        found = [*_foreign(run, path, variables, scripts), *_unread(run, path)]
        for at, text, hint in found:
            position = loaded.sources.value(at)
            if (position.file, position.line) not in loaded.ignored:
                subject = loaded.sources.subject(at)
                yield Diagnostic(f"{text} stays as it is", position, subject, hint + _SILENCE, "warning")


Found = tuple[Path, str, str]
"""Where, the text, and what to do."""


def _foreign(value: Any, path: Path, variables: Collection[str], scripts: Collection[Path]) -> Iterator[Found]:
    """Yield expressions of other tools anywhere in a run."""
    for key, child in members(value):
        if key != "description":
            yield from _foreign(child, (*path, key), variables, scripts)
    if isinstance(value, str) and ("{" in value or ":" in value):
        for pattern in _PATTERNS:
            matches = pattern.regex.finditer(value) if pattern.in_scripts or path not in scripts else ()
            for text, match in {match[0]: match for match in matches}.items():
                hint = pattern.hint(match, variables)
                if hint:
                    yield path, f'"{text}"', hint


def _is_shell(words: list[str]) -> bool:
    """Return whether a shell reads what these words start."""
    return any(word.rpartition("/")[2] in _SHELLS for word in words[:3])


def _words(command: Any) -> list[str]:
    """Return the words of a command, quotes left on; [] for one that is wrong otherwise."""
    if isinstance(command, list):
        return [word for word in command if isinstance(word, str)]
    try:
        reader = shlex.shlex(command if isinstance(command, str) else "", posix=False, punctuation_chars=True)
        reader.commenters, reader.whitespace_split = "", True
        return list(reader)
    except ValueError:
        return []


def _scripts(run: Mapping[str, Any], path: Path) -> Iterator[Path]:
    """Yield the places of commands, or arguments, that a shell or another program reads as a program."""
    shell = _is_shell(_words(run.get("entrypoint")))
    for key in ("entrypoint", "command"):
        words = run.get(key)
        if shell or _is_shell(_words(words)):
            yield (*path, key)
            yield from ((*path, key, index) for index in range(len(words) if isinstance(words, list) else 0))


def _unread(run: Mapping[str, Any], path: Path) -> Iterator[Found]:
    """Yield what only a shell would understand, in commands that none reads."""
    if _is_shell(_words(run.get("entrypoint"))):
        return
    for key in ("entrypoint", "command"):
        command, words = run.get(key), _words(run.get(key))
        if _is_shell(words):
            continue
        globs = isinstance(command, str) or (bool(words) and words[0].rpartition("/")[2] in _TAKE_FILES)
        told: dict[str, None] = {}
        for index, word in enumerate(words):
            if run.get("provider") == "kubernetes":
                word = _OF_KUBERNETES.sub("", word)
            if not _SCRIPTS.intersection(words[:index]) and word[:1] != "'":
                told |= dict.fromkeys(_of_a_shell(word, globs=globs))
        if told:
            text = ", ".join(f'"{one}"' for one in told)
            yield (*path, key), text, "no shell reads the command; write [sh, -c, '...']"


def _of_a_shell(word: str, *, globs: bool) -> list[str]:
    """Return the part of a word that a shell would replace or obey."""
    if _OPERATOR.fullmatch(word):
        return [word]
    names = _NAME.findall(word)
    return names or ([word] if globs and word[:1] != '"' and _GLOB.fullmatch(word) else [])
