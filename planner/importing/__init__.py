"""Importing: what other tools run (Jobs, compose services, crontabs) as runs of a spec, and the proof that it is the same.

A converter is pure. It yields for each thing that runs an ``Imported``: the fields of a run, and what the engine is to get
in the end (``wanted``). The caller has the spec rendered by the real planner, and ``unequal`` compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from flowplan.planner.compare.diff import differences
from flowplan.planner.desired import expressions
from flowplan.planner.manifests import Manifests
from flowplan.schemas.plans import ABSENT
from flowplan.schemas.pointers import keys_of
from flowplan.schemas.runs import Json, Objects
from flowplan.schemas.sources import Position


class Remark(NamedTuple):
    """Something of a source that the spec does not have as it was.

    Attributes:
        path: where it is, as the source's users write it: ``spec.schedule``.
        why: why it is not carried over; instead: what to do.
        lost: whether what runs is another thing without it; False for what says when and by whom it is started.
        value: as in the source; None where it is a secret, or too long to tell.
    """

    path: str
    why: str
    instead: str = ""
    position: Position | None = None
    lost: bool = True
    value: Json = None


NO_SCHEDULE = (
    "flowplan starts nothing by itself: call `flowplan apply --yes` at these times, from cron, a systemd timer or CI"
)
ENVIRONMENT, VARIABLE = "env", "var"


class Secret(NamedTuple):
    """A reference in the fields of a run, in place of a secret that the source has written out.

    Attributes:
        kind: ENVIRONMENT for ``{from_env: NAME}``, VARIABLE for ``${var.NAME}`` of a sensitive variable.
    """

    kind: str
    name: str

    @property
    def given_by(self) -> str:
        """Return the variable of the environment that gives the value to whoever plans and applies."""
        return self.name if self.kind == ENVIRONMENT else f"FLOWPLAN_VAR_{self.name}"


class Expression(str):
    """A text in the fields of a run that is written as the spec has it: expressions in it are meant."""


class Hidden(NamedTuple):
    """A secret that was written out in a source; the value stays in memory."""

    value: str
    path: str
    position: Position | None


@dataclass(slots=True)
class Imported:
    """One thing of a source that becomes a run.

    Attributes:
        name: of the run; title: what people call it: ``Job "sync"``.
        fields: of the run in the spec, without expressions: ``spec_of`` escapes what looks like one.
        wanted: what the engine is to get, by kind, in the shape that ``plain`` makes of rendered objects.
        plain: makes rendered objects, with secrets filled in, comparable with ``wanted``.
        at: JSON Pointer into ``wanted`` -> where the source says it.
        secrets: what the source has written out, and the run has references to.
    """

    name: str
    title: str
    fields: dict[str, Any]
    wanted: Objects
    plain: Callable[[Objects], Objects]
    at: Callable[[str], Position | None] = lambda pointer: None
    remarks: list[Remark] = field(default_factory=list)
    secrets: dict[Secret, Hidden] = field(default_factory=dict)


class Around(NamedTuple):
    """What a converter may want to know beside its file.

    Attributes:
        home: of the user whose crontab it is; user: who imports.
        directory: of the file, relative to that of the spec, "" where they are the same; absolute: the same, absolute.
        dotenv: the text of ``.env`` beside the file; read: returns the text of another file beside it, None without one.
        templates: base job templates: name of the work pool, "" for all others -> path as the spec says it, and text.
        profiles: that are enabled; targets: globs of the only names that are wanted, none for what ends by itself.
    """

    home: str = "/"
    user: str = ""
    directory: str = ""
    absolute: str = "/"
    dotenv: str = ""
    read: Callable[[str], str | None] = lambda path: None
    templates: Mapping[str, tuple[str, str]] = MappingProxyType({})
    profiles: Sequence[str] = ()
    targets: Sequence[str] = ()

    @property
    def directory_name(self) -> str:
        """Return the name of the directory that the file is in."""
        return self.absolute.rpartition("/")[2]


class Source(NamedTuple):
    """What a converter found in a file.

    Attributes:
        remarks: on what is no run; project: its name, "" where the source has none.
        variables: declarations of the spec's variables that the runs use; values: of these, for the comparison.
        alone: what to do instead of importing it together with another file of its project, where that is not the same.
    """

    runs: list[Imported]
    remarks: list[Remark]
    project: str = ""
    variables: Mapping[str, Mapping[str, Json]] = MappingProxyType({})
    values: Mapping[str, str] = MappingProxyType({})
    alone: str = ""


def unequal(run: Imported, rendered: Objects, manifests: Manifests) -> list[Remark]:
    """Return what differs between a source and what the planner made of its run."""
    return [
        Remark(
            _shown(path),
            "the run has nothing there" if ours is ABSENT else f"the run has {_value(ours)}",
            position=run.at(path),
            value="nothing" if source is ABSENT else source,
        )
        for path, source, ours in differences(run.wanted, run.plain(rendered))
        if not manifests.equal(path, source, ours)
    ]


def _shown(pointer: str) -> str:
    """Return a pointer into the objects as people write it, without the kind."""
    steps = [f"[{key}]" if key.isdigit() else f".{key}" for key in keys_of(pointer)[1:]]
    return "".join(steps).removeprefix(".")


def _value(value: Json) -> str:
    return f'"{value}"' if isinstance(value, str) else "another one" if isinstance(value, dict | list) else str(value)


def settled(runs: Iterable[Imported]) -> list[Imported]:
    """Give each run a name of its own, and each secret a place of its own; return the runs."""
    found: dict[str, Imported] = {}
    known: dict[Secret, str] = {}
    for run in runs:
        name, count = run.name, 1
        while run.name in found:
            count += 1
            run.name = f"{name}-{count}"
        if count > 1:
            run.remarks.append(Remark("", f'"{name}" is the name of another run: this one is {run.name}', lost=False))
        for secret, hidden in list(run.secrets.items()):
            if known.setdefault(secret, hidden.value) != hidden.value:
                other = Secret(secret.kind, _IN_NAMES.sub("_", f"{run.name}_{secret.name}"))
                known[other] = hidden.value
                run.secrets = {other if s == secret else s: h for s, h in run.secrets.items()}
                run.fields = _replaced(run.fields, secret, other)
        found[run.name] = run
    return list(found.values())


_IN_NAMES = re.compile(r"[^A-Za-z0-9_]")


def _replaced(value: Any, old: Secret, new: Secret) -> Any:
    if isinstance(value, Secret):
        return new if value == old else value
    if isinstance(value, Expression) and old.kind == VARIABLE:
        return Expression(value.replace(f"${{var.{old.name}}}", f"${{var.{new.name}}}"))
    if isinstance(value, dict):
        return {key: _replaced(child, old, new) for key, child in value.items()}
    return [_replaced(child, old, new) for child in value] if isinstance(value, list) else value


def spec_of(
    project: str, runs: Sequence[Imported], providers: Mapping[str, Any], variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the document of the spec that has these runs, settings of providers, and variables."""
    variables = {name: dict(declared) for name, declared in variables.items()} | {
        secret.name: {"sensitive": True} for run in runs for secret in run.secrets if secret.kind == VARIABLE
    }
    return {
        "flowplan": 1,
        "project": project,
        **({"variables": variables} if variables else {}),
        **({"providers": dict(providers)} if providers else {}),
        "runs": {run.name: escaped(run.fields) for run in runs},
    }


def escaped(value: Any) -> Json:
    """Return a value that the spec evaluates to itself: what would be an expression in it is escaped."""
    if isinstance(value, Expression):
        return str(value)
    if isinstance(value, Secret):
        return {"from_env": value.name} if value.kind == ENVIRONMENT else f"${{var.{value.name}}}"
    if isinstance(value, Mapping):
        return {key: escaped(child) for key, child in value.items()}
    if isinstance(value, list):
        return [escaped(child) for child in value]
    return expressions.escape(value) if isinstance(value, str) and _is_ours(value) else value


def _is_ours(text: str) -> bool:
    try:
        return expressions.parse(text) is not None
    except expressions.ExpressionError:
        return True


_ILLEGAL, _LONGEST = re.compile(r"[^A-Za-z0-9_.-]+"), 63


def run_name(text: str) -> str:
    """Return a name of a run made of any text."""
    return _ILLEGAL.sub("-", text)[:_LONGEST].strip("-.") or "run"
