"""The command that shows what differs between two environments: in the objects that they would send, with origins."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from flowplan.commands.arguments import check_format
from flowplan.commands.places import place, shown
from flowplan.engines import ManifestsByType, composed, kinds_of
from flowplan.given import Given
from flowplan.output import Output
from flowplan.planner.compare.diff import differences, origin_at, settings_fields
from flowplan.planner.manifests import traits
from flowplan.planner.manifests.names import is_own_label
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.plans import ABSENT, FORMAT_VERSION
from flowplan.schemas.pointers import unescape
from flowplan.schemas.runs import Desired, Json, Rendered, canonical
from flowplan.schemas.secrets import TOKEN, with_strings
from flowplan.schemas.text import counted, harmless
from flowplan.wanted import Wanted, offline

_SHOWN = 5
"""Addresses that are named where runs differ alike."""


class Differing(NamedTuple):
    """A field in which a run differs, with both values (ABSENT where there is none) and where they were written."""

    path: str
    values: tuple[Json, Json]
    origins: tuple[str, str]


def diff(spec: Path | None, environments: Sequence[str], given: Given, format: str) -> None:
    """Show what differs between two environments of a spec, offline."""
    from flowplan.schemas.composition import read_files

    check_format(format, ("text", "json"))
    if len(set(environments)) != 2 or len(environments) != 2:
        raise InvalidInput("diff compares two environments", hint="write --env dev --env prod")
    read = read_files(spec or shown(place(None).spec))
    # The key of no state: a fingerprint under a known one would tell the secret to who guesses it.
    key = secrets.token_bytes(32)
    one, other = (offline(composed(read, name), given, key) for name in environments)
    found = {a: _fields(one, other, one.runs[a], other.runs[a]) for a in one.runs if a in other.runs}
    if format == "json":
        Output().document(_document(environments, one, other, found))
    else:
        for line in _text(environments, one, other, found):
            Output().data(line)


def _fields(one: Wanted, other: Wanted, before: Desired, after: Desired) -> list[Differing]:
    """Return the fields in which a run differs: its provider, its objects, and what flowplan does with it."""
    left, right = before.render(1), after.render(1)
    provider = (before.provider, after.provider)
    fields = [Differing("/Run/provider", provider, ("", ""))] if before.provider != after.provider else []
    fields += [
        Differing(path, (_hidden(old), _hidden(new)), (_origin(left, path, old), _origin(right, path, new)))
        for path, old, new in differences(left.objects, right.objects)
        if not is_own_label(unescape(path.rpartition("/")[2]))
    ]
    kept = traits(ManifestsByType()[before.type]).KEPT_BY_ENGINE
    fields += [
        Differing(f.path, (f.before, f.after), (_setting(one, before, f.path), _setting(other, after, f.path)))
        for f in settings_fields(before.settings, after.settings, kept)
    ]
    return fields


def _hidden(value: Json) -> Json:
    """Return a value whose secrets are named, without their fingerprints."""
    return with_strings(value, lambda text: TOKEN.sub(r"(sensitive \1)", text))


def _origin(rendered: Rendered, path: str, value: Json) -> str:
    return "" if value is ABSENT else origin_at(rendered.origins, path)


def _setting(wanted: Wanted, run: Desired, path: str) -> str:
    """Return where a setting was written, "" where it is a default."""
    name, sources = unescape(path.split("/")[2]), wanted.loaded.sources
    places = (("runs", run.settings.group, name), ("defaults", name))
    return next((sources.told(at, where) for at in places if (where := sources.find_key(at))), "")


def _document(
    environments: Sequence[str], one: Wanted, other: Wanted, found: Mapping[str, Sequence[Differing]]
) -> dict[str, Any]:
    def side(environment: str, value: Json, origin: str) -> dict[str, Any]:
        return {"environment": environment, **({} if value is ABSENT else {"value": value, "origin": origin})}

    runs = [
        {
            "address": address,
            "fields": [{"path": f.path, "sides": list(map(side, environments, f.values, f.origins))} for f in fields],
        }
        for address, fields in found.items()
        if fields
    ]
    return {
        "format_version": FORMAT_VERSION,
        "project": one.expansion.project,
        "environments": list(environments),
        "differ": runs,
        "only": {
            environments[0]: [a for a in one.runs if a not in other.runs],
            environments[1]: [a for a in other.runs if a not in one.runs],
        },
        "same": [address for address, fields in found.items() if not fields],
    }


def _text(
    environments: Sequence[str], one: Wanted, other: Wanted, found: Mapping[str, Sequence[Differing]]
) -> Iterator[str]:
    from flowplan.render.signs import COLOUR_OF_MARK, paint
    from flowplan.terminal import use_colour

    colour = use_colour(sys.stdout)
    alike: dict[str, list[str]] = {}
    for address, fields in found.items():
        if fields:
            told = [[f.path, [None if v is ABSENT else [v] for v in f.values]] for f in fields]
            alike.setdefault(canonical(told), []).append(address)
    alone = [[a for a in one.runs if a not in other.runs], [a for a in other.runs if a not in one.runs]]
    differ = sum(map(len, alike.values()))
    counts = [f"{counted(differ, 'run')} {'differs' if differ == 1 else 'differ'}"] if differ else []
    counts += [f"{len(some)} only in {name}" for name, some in zip(environments, alone, strict=True) if some]
    same = f"{len(found) - differ} the same"
    yield f"{harmless(one.expansion.project)}, {environments[0]} -> {environments[1]}: {', '.join([*counts, same])}."
    for name, some, mark in zip(environments, alone, "-+", strict=True):
        yield from ([""] if some else [])
        for address in some:
            yield paint(f"{mark}   {harmless(address)}  only in {name}", COLOUR_OF_MARK[mark], colour)
    for addresses in alike.values():
        yield ""
        more = f" and {len(addresses) - _SHOWN} more" if len(addresses) > _SHOWN else ""
        yield paint(f"~   {', '.join(map(harmless, islice(addresses, _SHOWN)))}{more}", COLOUR_OF_MARK["~"], colour)
        sides = one.runs[addresses[0]], other.runs[addresses[0]]
        for field in found[addresses[0]]:
            for mark, line in _lines(field, environments, sides):
                yield paint(line, COLOUR_OF_MARK.get(mark, "dim"), colour)


def _lines(field: Differing, environments: Sequence[str], sides: Sequence[Desired]) -> Iterator[tuple[str, str]]:
    """Yield the lines of a field, each with its mark: the values, then where each was written."""
    from flowplan.render.differences import View, one_line
    from flowplan.render.differences import shown as as_shown
    from flowplan.render.objects import place as named
    from flowplan.render.objects import scalar
    from flowplan.render.units import units_of

    kinds = kinds_of(side.type for side in sides)
    name = named(field.path, *(side.render(1).objects for side in sides), kinds=kinds)
    how = as_shown(*field.values, View(1, units_of(kinds)), field.path)
    mark = "~" if how.lines else "+" if how.before is None else "-" if how.after is None else "~"
    if field.values[0] == field.values[1]:
        yield "~", f"    ~ {name}: {harmless(scalar(field.values[0]))}, another value in {environments[1]}"
    elif text := one_line(how):
        yield mark, f"    {mark} {name}: {text}"
    else:
        yield mark, f"    {mark} {name}:"
        pairs = how.lines or [(sign, side) for sign, side in (("-", how.before), ("+", how.after)) if side is not None]
        yield from ((sign, f"        {sign} {line}") for sign, line in pairs)
    if field.origins[0] == field.origins[1] != "":
        yield "", f"        both: {field.origins[0]}"
        return
    for environment, origin in zip(environments, field.origins, strict=True):
        if origin:
            yield "", f"        {environment}: {harmless(origin)}"
