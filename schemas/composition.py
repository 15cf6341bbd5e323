"""Composition: the files that a spec includes, one of its environments and the runs that extend others become one document.

One rule merges everywhere: mappings by key; lists and scalars are replaced; null removes. A reference to a value elsewhere
(``{from_env: X}``) counts as a scalar.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from flowplan.schemas.documents import Document, parse, read_text
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.files import MAX_BYTES, is_stream
from flowplan.schemas.places import ENVIRONMENT_PATTERN
from flowplan.schemas.pointers import mapping_in
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import Diagnostic, Path, Position, SourceMap, did_you_mean, dotted

REFERENCE_KINDS = ("from_env", "from_file", "secret_key_ref", "config_map_key_ref")
MOST_FILES = 100
MOST_BASES = 100
"""Runs in a chain of ``extends``."""
MOST_ADDED = 1_000_000
"""Values that ``extends`` may add to those that are written."""

OF_THE_SPEC = ("project", "state")
"""What only the spec itself says, and no file that it includes."""
OF_ALL_ENVIRONMENTS = ("flowplan", "project", "include", "environments")


# --- the rule --------------------------------------------------------------------------------------------------------


MARKS = 2
"""Levels of a run (its fields, and what is in them) on which a null stays when it is merged, as the mark of what is removed."""


def over(lower: Mapping[str, Any], upper: Mapping[str, Any], marks: int = 0, under: Json = None) -> dict[str, Any]:
    """Return ``upper`` over ``lower``.

    Args:
        marks: levels on which a null stays, as the mark of what is removed, because something is still to come below.
        under: what is to come below: where that has a value, the null stays further down too.
    """
    result = dict(lower)
    for key, value in upper.items():
        below, deeper = result.get(key), under.get(key) if isinstance(under, dict) else None
        if value is None and marks <= 0 and key in result and deeper is None:
            del result[key]
        elif (
            isinstance(below, dict) and isinstance(value, dict) and not is_reference(value) and not is_reference(below)
        ):
            result[key] = over(below, value, marks - 1, deeper)
        else:
            result[key] = value
    return result


def is_reference(value: Any) -> bool:
    """Return whether a value is looked up elsewhere, as ``{from_env: X}`` and its like are."""
    kinds = value.keys() - {"track"} if isinstance(value, dict) else ()
    return len(kinds) == 1 and next(iter(kinds)) in REFERENCE_KINDS


def descend(value: Any, path: Path) -> tuple[int, Any]:
    """Return how many steps of the path exist, and the value there."""
    for depth, part in enumerate(path):
        if isinstance(value, dict):
            held = part in value
        else:
            held = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if not held:
            return depth, value
        value = value[part]
    return len(path), value


def _run_over(lower: Mapping[str, Any], upper: Mapping[str, Any], defaults: Json) -> dict[str, Any]:
    """Return a run over another, above the defaults; an axis of a matrix is removed at once, for it cannot be null."""
    result = over(lower, upper, MARKS, defaults)
    below, axes = lower.get("matrix"), upper.get("matrix")
    if isinstance(below, dict) and isinstance(axes, dict):
        result["matrix"] = over(below, axes)
    return result


# --- the files -------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A file of a spec: the spec itself, or one that is included.

    Attributes:
        document: what it says; files that it names are relative to the directory of the spec.
        name: of the file, relative to the directory of the spec.
    """

    document: Document
    name: str
    text: str


@dataclass(slots=True)
class _Reader:
    directory: FilePath
    faults: list[Diagnostic]
    room: int
    parts: list[Part] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def read(self, part: Part, folder: str, chain: list[str]) -> None:
        """Read what a file includes, then take in the file itself."""
        tree, sources = part.document.value, part.document.sources
        included = tree.get("include") if isinstance(tree, dict) else None
        for index, name in enumerate(included if isinstance(included, list) else [included]):
            path: Path = ("include", index) if isinstance(included, list) else ("include",)
            if name is None and not isinstance(included, list):
                continue
            try:
                self._include(name, folder, chain)
            except InvalidInput as error:
                self.faults += sources.placed(error.diagnostics, path)
        self.parts.append(part)

    def _include(self, name: Any, folder: str, chain: list[str]) -> None:
        if not isinstance(name, str) or not name:
            raise InvalidInput(f"must be the name of a file, not {_kind(name)}")
        if "${" in name:
            raise InvalidInput("the name of a file cannot hold an expression")
        shown = _moved(name, folder)
        target = self.directory / shown
        real = os.path.realpath(target)
        if real in chain:
            names = [os.path.relpath(one, os.path.dirname(chain[0])) for one in [*chain[chain.index(real) :], real]]  # noqa: PTH120
            raise InvalidInput(f"the files include each other in a cycle: {' -> '.join(names)}")
        if real in self.seen:
            return
        self.seen.add(real)
        if len(self.seen) > MOST_FILES:
            raise InvalidInput(f"more than {MOST_FILES} files are included")
        text = read_text(target, shown, pipes=False)
        self.room -= len(text)
        if self.room < 0:
            raise InvalidInput(f"the spec and what it includes are bigger than {MAX_BYTES // 1_000_000} MB")
        document = parse(text, str(target))
        self._check(document)
        where = os.path.dirname(shown)  # noqa: PTH120
        if where and isinstance(document.value, dict):
            document = document._replace(value=_with_paths(document.value, partial(_moved, folder=where)))
        self.read(Part(document, shown, text), where, [*chain, real])

    def _check(self, document: Document) -> None:
        tree, sources = document.value, document.sources
        if not isinstance(tree, dict):
            self.faults.append(Diagnostic(f"must be a mapping, not {_kind(tree)}", sources.value(())))
            return
        for key in OF_THE_SPEC:
            if key in tree:
                message = "stands in the spec only, not in a file that it includes"
                self.faults.append(sources.at_key((key,), message))
        if "flowplan" in tree and (tree["flowplan"] != 1 or isinstance(tree["flowplan"], bool)):
            message = f"must be 1, the version of the spec, not {_kind(tree['flowplan'])}"
            self.faults.append(sources.at_value(("flowplan",), message))


_ENVIRONMENT = re.compile(r"(?<!\$)\$\{environment\}")


def _moved(name: str, folder: str) -> str:
    """Return a path that a file in ``folder`` says, as the spec would say it; absolute ones and expressions stay."""
    name = os.path.expanduser(name) if name.startswith("~") else name  # noqa: PTH111
    stays = name.startswith("${") and not _ENVIRONMENT.match(name)
    return name if not folder or stays else os.path.normpath(os.path.join(folder, name))  # noqa: PTH118


_PATHS = re.compile(
    r"/(?:environments/[^/]*/)?(?:policies/\d+|providers/[^/]*/kubeconfig(?:/(?:.*/)?from_file)?"
    r"|(?:defaults|runs/[^/]*)/(?:template|working_dir|env_file(?:/\d+)?(?:/path)?|kubernetes/(?:job|customizations)"
    r"|docker/volumes/\d+|docker/registry_credentials/password/from_file|env/[^/]*/from_file|variables/.*/from_file))"
)
"""Where a document names a file."""


def _with_paths(value: Json, change: Callable[[str], str], place: str = "") -> Json:
    """Return a document with each name of a file changed."""
    if isinstance(value, dict):
        return {key: _with_paths(item, change, f"{place}/{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_with_paths(item, change, f"{place}/{index}") for index, item in enumerate(value)]
    if not isinstance(value, str) or not value or not _PATHS.fullmatch(place):
        return value
    named_volume = "/docker/volumes/" in place and not value.startswith(("./", "../"))
    return value if named_volume else change(value)


class SpecFiles(NamedTuple):
    """A spec that was read, with the files that it includes.

    Attributes:
        path: as the user gave it, ``<stdin>`` for ``-``.
        parts: the files, each once, lowest first: a file stands over those that it includes, the spec over all.
        faults: what is wrong with the includes.
    """

    path: FilePath
    parts: Sequence[Part]
    faults: Sequence[Diagnostic]

    @property
    def environments(self) -> tuple[str, ...]:
        """Return the names of the environments that the spec has, in the order in which they are written."""
        found = [mapping_in(part.document.value, "environments") for part in self.parts]
        return tuple(dict.fromkeys(name for names in found for name in names))


def read_files(path: FilePath, *, pipes: bool = True) -> SpecFiles:
    """Read a spec and the files that it includes.

    Args:
        path: of the spec; files that one from the standard input (``-``) or a pipe names are looked up in the working
            directory.
        pipes: read also a spec that comes through a pipe.

    Raises:
        InvalidInput: the spec cannot be read, or is not YAML.
    """
    text = read_text(path, pipes=pipes)
    path = FilePath("<stdin>") if is_stream(path) else path
    reader = _Reader(path.parent, [], room=MAX_BYTES - len(text))
    reader.read(Part(parse(text, str(path)), path.name, text), "", [os.path.realpath(path)])
    return SpecFiles(path, reader.parts, reader.faults)


# --- the document ----------------------------------------------------------------------------------------------------


class _Layer(NamedTuple):
    """A mapping that is merged with others.

    Attributes:
        sources: of its file; base: where the mapping stands in it.
        valued: variables of which only the value is given.
    """

    value: Mapping[str, Any]
    sources: SourceMap
    base: Path = ()
    valued: frozenset[str] = frozenset()

    def place(self, path: Path) -> Path:
        """Return where the file has what the mapping has at a path."""
        if len(path) > 2 and path[0] == "variables" and path[1] in self.valued:
            path = path[:2] + path[3:]
        return self.base + path


def _kind(value: Json) -> str:
    from flowplan.schemas.fields import kind_of  # takes pydantic along, which completion does without

    return kind_of(value)


def compose(parts: Sequence[Part], environment: str, faults: list[Diagnostic]) -> Document:
    """Return what the files say together, in one environment; a spec alone, that uses none of this, as it is.

    Args:
        parts: lowest first, the spec last.
        environment: its name, "" for none.
        faults: takes in what cannot be merged.
    """
    spec = parts[-1].document
    if not isinstance(spec.value, dict):
        return spec
    runs = [spec.value.get("defaults"), *mapping_in(spec.value, "runs").values()]
    extending = any("extends" in run for run in runs if isinstance(run, dict))
    if not (extending or "include" in spec.value or "environments" in spec.value):
        return spec
    return _Composer(faults).compose(parts, environment)


@dataclass(slots=True)
class _Composer:
    faults: list[Diagnostic]
    layers: list[_Layer] = field(default_factory=list)
    tree: dict[str, Any] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)

    def compose(self, parts: Sequence[Part], environment: str) -> Document:
        for part in parts:
            self._include(part, is_spec=part is parts[-1])
            self._check_environments(part)
        for part in parts:
            if environment and (overlay := mapping_in(part.document.value, "environments").get(environment)):
                self._overlay(overlay, part.document.sources, ("environments", environment))
        self._extend()
        if environment:  # which names files as well: they are read before other expressions have values
            self.tree = _with_paths(self.tree, lambda name: _ENVIRONMENT.sub(environment, name))
        written = _Written(self.layers[::-1], self.bases)
        file = parts[-1].document.sources.file
        names = {part.document.sources.file: part.name for part in parts}
        return Document(
            self.tree,
            SourceMap(
                file,
                partial(written.start, SourceMap.key),
                partial(written.start, SourceMap.value),
                written.place,
                names,
            ),
        )

    def _include(self, part: Part, *, is_spec: bool) -> None:
        """Put a file over those that it includes; a run or variable may be defined in one of them only."""
        tree, sources = part.document.value, part.document.sources
        if not isinstance(tree, dict):
            return
        for section in ("variables", "runs"):
            for name, entry in mapping_in(tree, section).items():
                if entry is not None and name in mapping_in(self.tree, section):
                    path = (section, name)
                    first = self._where(path)
                    hint = "extend it under another name, or change it in an environment" if section == "runs" else ""
                    self.faults.append(sources.at_key(path, f"is defined already, at {first}", hint))
        own = {k: v for k, v in tree.items() if k not in ("include", "environments")}
        if not is_spec:
            own = {k: v for k, v in own.items() if not k.startswith("x-")}
        self._put(_Layer(own, sources))

    def _where(self, path: Path) -> Position:
        sources = [layer.sources for layer in self.layers if descend(layer.value, path)[0] == len(path)]
        return sources[-1].key(path)

    def _put(self, layer: _Layer) -> None:
        self.layers.append(layer)
        for key in sorted(layer.value, key="defaults".__ne__):  # they are below the runs
            below, value = self.tree.get(key), layer.value[key]
            if value is None and key in self.tree:
                del self.tree[key]
            elif not (isinstance(below, dict) and isinstance(value, dict)):
                self.tree[key] = value
            elif key == "runs":
                both = {
                    n for n in below.keys() & value.keys() if isinstance(below[n], dict) and isinstance(value[n], dict)
                }
                defaults = self.tree.get("defaults")
                merged = {name: _run_over(below[name], value[name], defaults) for name in both}
                self.tree[key] = over(below, value) | merged
            else:
                self.tree[key] = over(below, value, MARKS if key == "defaults" else 0)

    # -- environments --

    def _check_environments(self, part: Part) -> None:
        tree, sources = part.document.value, part.document.sources
        if not isinstance(tree, dict) or "environments" not in tree:
            return
        if not isinstance(tree["environments"], dict):
            message = f"must be a mapping, not {_kind(tree['environments'])}"
            hint = "write `dev: {...}`; the environment's name is the key"
            self.faults.append(sources.at_value(("environments",), message, hint))
        for name, overlay in mapping_in(tree, "environments").items():
            path: Path = ("environments", name)
            if not re.search(ENVIRONMENT_PATTERN, name):
                message = "must be a name of at most 63 letters, digits, -, _ and ."
                self.faults.append(sources.at_key(path, message))
            if overlay is not None and not isinstance(overlay, dict):
                message = f"must be a mapping, not {_kind(overlay)}"
                self.faults.append(sources.at_value(path, message))
                continue
            for key in OF_ALL_ENVIRONMENTS:
                if key in (overlay or ()):
                    message = "cannot differ between environments"
                    self.faults.append(sources.at_key((*path, key), message))

    def _overlay(self, overlay: Any, sources: SourceMap, base: Path) -> None:
        """Put an environment over the document."""
        if not isinstance(overlay, dict):
            return
        own = {k: v for k, v in overlay.items() if k not in OF_ALL_ENVIRONMENTS}
        for section in ("runs", "providers", "variables"):
            known, entries = mapping_in(self.tree, section), mapping_in(own, section)
            nothing = [name for name, entry in entries.items() if entry is None and name not in known]
            for name in nothing:
                path = (*base, section, name)
                message = "there is none to remove"
                self.faults.append(sources.at_key(path, message, did_you_mean(name, known)))
            if nothing:
                own[section] = {k: v for k, v in entries.items() if k not in nothing}
        variables, valued = self._variables(mapping_in(own, "variables"), sources, (*base, "variables"))
        if variables:
            own["variables"] = variables
        self._put(_Layer(own, sources, base, valued))

    def _variables(
        self, given: Mapping[str, Any], sources: SourceMap, base: Path
    ) -> tuple[dict[str, Any], frozenset[str]]:
        """Return declarations of the variables of an environment, and those of which it gives the value alone.

        A mapping is a part of the declaration, but for a variable of type map the value.
        """
        declared = mapping_in(self.tree, "variables")
        variables, valued = dict(given), set()
        for name, value in given.items():
            known = declared.get(name)
            is_map = isinstance(known, dict) and known.get("type") == "map"
            if value is None or (isinstance(value, dict) and not is_map):
                continue
            if known is None:
                hint = did_you_mean(name, declared) or "declare it under variables:"
                path = (*base, name)
                self.faults.append(sources.at_key(path, "the spec declares no such variable", hint))
                del variables[name]
                continue
            variables[name] = {"default": value}
            valued.add(name)
        return variables, frozenset(valued)

    # -- runs that extend others --

    def _extend(self) -> None:
        defaults = self.tree.get("defaults")
        if isinstance(defaults, dict) and "extends" in defaults:
            self._fault(("defaults", "extends"), "is for a run, not for the defaults of all")
            self.tree["defaults"] = {k: v for k, v in defaults.items() if k != "extends"}
        runs = dict(mapping_in(self.tree, "runs"))
        for name, run in runs.items():
            if isinstance(run, dict) and run.get("extends", "") is None:
                runs[name] = {k: v for k, v in run.items() if k != "extends"}
            elif isinstance(run, dict) and isinstance(run.get("extends"), str) and run["extends"]:
                self.bases[name] = run["extends"]
        if not self.bases:
            return
        done: dict[str, Any] = {name: run for name, run in runs.items() if name not in self.bases}
        room = MOST_ADDED
        for name in self.bases:
            for one in reversed(self._chain(name, runs, done)):
                base = done.get(self.bases[one])
                own = {k: v for k, v in runs[one].items() if k != "extends"}
                done[one] = _run_over(base, own, defaults) if isinstance(base, dict) else own
                room -= _size(done[one], room)
                if room < 0:
                    raise InvalidInput(
                        [self._diagnostic(("runs", one, "extends"), "the runs that extend others have too many values")]
                    )
        self.tree["runs"] = {name: done[name] for name in runs}

    def _chain(self, name: str, runs: Mapping[str, Any], done: Mapping[str, Any]) -> list[str]:
        """Return a run and those that it extends, as far as they are not done yet."""
        chain: list[str] = []
        while name not in done:
            if name in chain:
                cycle = [*chain[chain.index(name) :], name]
                self._fault(
                    ("runs", chain[-1], "extends"), f"the runs extend each other in a cycle: {' -> '.join(cycle)}"
                )
                break
            chain.append(name)
            base = self.bases[name]
            if base not in runs:
                hint = did_you_mean(base, runs) or f"known: {', '.join(islice(runs, 10))}"
                self._fault(("runs", name, "extends"), f'unknown run "{base}"', hint)
                break
            if len(chain) > MOST_BASES:
                raise InvalidInput(
                    [self._diagnostic(("runs", name, "extends"), f"extends more than {MOST_BASES} runs in a chain")]
                )
            name = base
        return chain

    def _fault(self, path: Path, message: str, hint: str = "") -> None:
        self.faults.append(self._diagnostic(path, message, hint))

    def _diagnostic(self, path: Path, message: str, hint: str = "") -> Diagnostic:
        written = _Written(self.layers[::-1], {})
        found = written.find(path)
        return Diagnostic(message, found[0].value(found[1]) if found else None, dotted(written.place(path)), hint)


def _size(value: Any, most: int) -> int:
    """Return the number of values in a tree, counted up to ``most``."""
    count, todo = 0, [value]
    while todo and count <= most:
        one = todo.pop()
        count += 1
        if isinstance(one, dict | list):
            todo += one.values() if isinstance(one, dict) else one
    return count


class _Written:
    """Finds where the parts of a composed document were written.

    Args:
        layers: highest first; bases: run -> the run that it extends.
    """

    def __init__(self, layers: Sequence[_Layer], bases: Mapping[str, str]) -> None:
        self._layers, self._bases = layers, bases

    def start(self, which: Callable[[SourceMap, Path], Position], path: Path) -> Position | None:
        """Return where the key or the value at a path starts, ``which`` the file says."""
        found = self.find(path) if path else None
        return which(*found) if found else None

    def find(self, path: Path) -> tuple[SourceMap, Path] | None:
        """Return the positions of the file that has the value, and its path there; None where no file has just this."""
        for one in self._lines(path):
            for layer in self._layers:
                found, value = descend(layer.value, one)
                if found == len(one):
                    return layer.sources, layer.place(one)
                if found > 0 and not isinstance(value, dict):
                    return None
        return None

    def _lines(self, path: Path) -> Iterator[Path]:
        """Yield a path, and for one in a run the same in each of the runs that it extends."""
        yield path
        if len(path) > 2 and path[0] == "runs":
            name, seen = self._bases.get(str(path[1])), 0
            while name is not None and seen <= MOST_BASES:
                yield ("runs", name, *path[2:])
                name, seen = self._bases.get(name), seen + 1

    def place(self, path: Path) -> Path:
        """Return the path in its own file, as far as it is written there."""
        for end in range(len(path), 0, -1):
            if found := self.find(path[:end]):
                return found[1] + path[end:]
        return path
