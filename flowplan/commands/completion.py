"""Completion for bash, zsh and fish: the scripts that a shell reads, and what they are answered.

A shell asks at each press of a key, so an answer comes from files alone: the spec, the state, directories. No engine is
asked, nothing is written, and what cannot be read offers nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from flowplan.commands import places
from flowplan.options import Argument, Command, Parameter, names, parameters
from flowplan.output import Output
from flowplan.schemas.errors import FlowplanError, InvalidInput
from flowplan.schemas.pointers import mapping_in
from flowplan.schemas.sources import did_you_mean
from flowplan.state.location import FileLocation

# The bash of a user may have no bash-completion, which splits words better: so the whole line is handed over.
SCRIPTS = {
    "bash": """\
_flowplan() {
    COMPREPLY=()
    mapfile -t COMPREPLY < <(_FLOWPLAN_COMPLETE=bash "$1" "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2> /dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/] ]]; then compopt -o nospace; fi
}
complete -F _flowplan flowplan
""",
    "zsh": """\
#compdef flowplan
_flowplan() {
    local -a whole begun shown_whole shown_begun
    local text told
    while IFS=$'\\t' read -r text told; do
        if [[ $text == *[=/] ]]; then begun+=("$text") shown_begun+=("$text${told:+  -- $told}")
        else whole+=("$text") shown_whole+=("$text${told:+  -- $told}"); fi
    done < <(_FLOWPLAN_COMPLETE=zsh "${(Q)words[1]}" "${(@Q)words[2,CURRENT]}" 2> /dev/null)
    compadd -l -d shown_whole -a -- whole
    compadd -l -d shown_begun -S '' -a -- begun
}
if [[ $funcstack[1] == _flowplan ]]; then _flowplan; else compdef _flowplan flowplan; fi
""",
    "fish": """\
function __flowplan_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    _FLOWPLAN_COMPLETE=fish $before[1] $before[2..-1] "$current" 2> /dev/null
end
complete -c flowplan -f -a '(__flowplan_complete)'
""",
}


class Offer(NamedTuple):
    """A word that may stand here, and what a shell shows beside it; after ``=`` and ``/`` at its end it goes on."""

    text: str
    told: str = ""


def script(shell: str) -> None:
    """Print the completion script of a shell."""
    if shell not in SCRIPTS:
        hint = did_you_mean(shell, SCRIPTS) or f"one of {', '.join(SCRIPTS)}"
        raise InvalidInput(f'there is no completion for "{shell}"', hint=hint)
    Output().data(SCRIPTS[shell].rstrip("\n"))


def answer(commands: Sequence[Command], shell: str, given: Sequence[str]) -> None:
    """Print what may stand where the cursor is, one offer a line; of what cannot be read nothing is offered.

    Args:
        given: of bash the line up to the cursor and what breaks words; of others the words after the program's name.
    """
    with contextlib.suppress(FlowplanError, LookupError, ValueError, OSError):
        if shell == "bash":
            line = Line.read(given[0], given[1])
            replies = (line.reply(offer.text) for offer in offers(commands, line.before[1:], line.word))
            shown = [reply for reply in replies if reply]
        else:
            shown = [f"{text}\t{told}" for text, told in offers(commands, given[:-1], given[-1])]
        if shown:
            Output().data("\n".join(shown))


class Line(NamedTuple):
    """A command line of bash up to the cursor.

    Attributes:
        before: the words before the current one; word: the current one as the program would get it.
        kept: how much of it bash keeps: it replaces the rest. quote: the quotation mark that is open, or "".
    """

    before: list[str]
    word: str
    kept: int
    quote: str

    @classmethod
    def read(cls, text: str, breaks: str) -> Line:
        """Return the words of a line, of which the last may lack its closing quotation mark."""
        before: list[str] = []
        word, kept, quote, position, begun = "", 0, "", 0, False
        while position < len(text):
            char = text[position]
            position += 1
            if char == "\\" and quote != "'" and position < len(text):
                word += text[position]
                position += 1
            elif char == quote:
                quote, kept = "", len(word)
            elif not quote and char in "'\"":
                quote, kept = char, len(word)
            elif not quote and char.isspace():
                if begun:
                    before.append(word)
                word, kept, begun = "", 0, False
                continue
            else:
                word += char
                kept = len(word) if not quote and char in breaks else kept
            begun = True
        return cls(before, word, kept, quote)

    def reply(self, text: str) -> str:
        """Return what bash puts in place of what it replaces, quoted as what stands there; "" when that is impossible."""
        if not text.startswith(self.word) or (self.quote == "'" and "'" in text):
            return ""
        rest = text[self.kept :]
        return rest if self.quote == "'" else re.sub(r'[$`"\\!]' if self.quote else r"[^\w./=:,@%+-]", r"\\\g<0>", rest)


def offers(commands: Sequence[Command], before: Sequence[str], word: str) -> Iterator[Offer]:
    """Yield what may stand in the place of ``word``, in words of the program; the shell leaves out what does not fit.

    Args:
        before: the words between the program's name and the current one.
    """
    found = next((c for c in commands if c.words == tuple(before[: len(c.words)])), None)
    if found is None:
        yield from _commands(commands, tuple(before))
        return
    known = parameters(found.function)
    by_name = {name: parameter for parameter in known for name, on in names(parameter) if on}
    variables = {p.name: os.environ.get(p.declared.setting("envvar") or "", "") for p in known}
    values = {name: value for name, value in variables.items() if value}
    free = 0
    asked: Parameter | None = None
    for text in before[len(found.words) :]:
        name, given, value = text.partition("=")
        if asked is not None:
            values[asked.name], asked = text, None
        elif text.startswith("-") and len(text) > 1:
            option = by_name.get(name)
            if option is not None and given:
                values[option.name] = value
            asked = option if option is not None and not given and option.kind is not bool else None
        else:
            if taker := _argument(known, free):
                values[taker.name] = text
            free += 1
    name, given, value = word.partition("=")
    if asked is None and word.startswith("-"):
        asked = by_name.get(name) if given else None
        if asked is None:
            yield from (Offer(n, p.declared.setting("help")) for p in known for n, _ in names(p))
            return
        yield from (Offer(f"{name}={text}", told) for text, told in _values(asked, values, value))
        return
    asked = asked or _argument(known, free)
    if asked is not None:
        yield from _values(asked, values, word)


def _commands(commands: Sequence[Command], before: tuple[str, ...]) -> Iterator[Offer]:
    told: dict[str, str] = {}
    for command in commands:
        if command.words[: len(before)] == before:
            whole = len(command.words) == len(before) + 1
            summary = (command.function.__doc__ or "").partition("\n")[0] if whole else ""
            told.setdefault(command.words[len(before)], summary)
    return (Offer(word, summary) for word, summary in told.items())


def _argument(known: Iterable[Parameter], place: int) -> Parameter | None:
    arguments = [parameter for parameter in known if isinstance(parameter.declared, Argument)]
    if place < len(arguments):
        return arguments[place]
    return arguments[-1] if arguments and arguments[-1].many else None


def _values(parameter: Parameter, values: Mapping[str, str], word: str) -> Iterator[Offer]:
    """Yield what an argument or option may be, by what its help calls it."""
    called = str(parameter.declared.setting("metavar"))
    if called.islower() and "|" in called:
        yield from map(Offer, called.split("|"))
    elif called.startswith(("ADDR", "FROM")):
        yield from _addresses(values)
    elif called == "NAME=VALUE":
        for name, declared in mapping_in(_spec(values)[0], "variables").items():
            yield Offer(f"{name}=", str(mapping_in({"it": declared}, "it").get("description", "")))
    elif parameter.name == "env":
        yield from map(Offer, _spec(values)[1])
    elif parameter.kind is Path or "FILE" in called:
        yield from _files(word, called)


def _place(values: Mapping[str, str]) -> places.Place:
    spec = values.get("spec") or values.get("what", "")
    named = Path(spec) if spec.endswith((".yaml", ".yml")) else None
    return places.place(values.get("state"), named, values.get("env"))


def _spec(values: Mapping[str, str]) -> tuple[Any, Sequence[str]]:
    """Return what the spec says, with what it includes and extends, and the names of its environments."""
    from flowplan.schemas.composition import compose, read_files

    place = _place(values)
    read = read_files(place.spec, pipes=False)
    return compose(read.parts, place.environment, []).value, read.environments


def _addresses(values: Mapping[str, str]) -> Iterator[Offer]:
    """Yield the runs and cells of the spec, as far as no expression decides, then what else the state manages."""
    seen = dict.fromkeys(_of_spec(values))
    with contextlib.suppress(FlowplanError):
        state = _place(values).state
        if isinstance(state, FileLocation) and state.exists():  # a server may be slow, or far away
            with closing(state.open(read_only=True)) as store:
                seen |= dict.fromkeys(store.addresses())
    yield from map(Offer, seen)


def _of_spec(values: Mapping[str, str]) -> Iterator[str]:
    from flowplan.planner.desired import matrix

    try:
        runs = mapping_in(_spec(values)[0], "runs")
    except (FlowplanError, OSError):
        return
    for name, run in runs.items():
        yield name
        with contextlib.suppress(ValueError, TypeError):
            axes = mapping_in(run, "matrix")
            yield from (matrix.address(name, *cell) for cell in matrix.cells(axes)) if axes else ()


SUFFIXES = {"SPEC": (".yaml", ".yml"), "PLAN": (".json",), "PLAN|SPEC": (".json", ".yaml", ".yml")}
"""What files of a kind end in; a plan may be called as one likes, and is told by how it begins."""
PLAN_START = b'{\n "format_version"'


def _files(word: str, called: str) -> Iterator[Offer]:
    """Yield the files and directories that begin with a word; hidden ones only after a dot."""
    directory, slash, begun = word.rpartition("/")
    around = Path(f"{directory}{slash}" or ".").expanduser()
    entries = sorted(e for e in around.iterdir() if e.name.startswith(begun) and (begun[:1] == "." or e.name[0] != "."))
    suffixes = SUFFIXES.get(called, "")
    for entry in entries:
        if entry.is_dir():
            yield Offer(f"{directory}{slash}{entry.name}/")
        elif entry.name.endswith(suffixes) or ("PLAN" in called and _begins_as_a_plan(entry)):
            yield Offer(f"{directory}{slash}{entry.name}")


def _begins_as_a_plan(path: Path) -> bool:
    with contextlib.suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return file.read(len(PLAN_START)) == PLAN_START
    return False
