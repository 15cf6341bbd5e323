"""What to record of an object that exists already: the wanted objects, with the live values wherever they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowplan.planner.compare.diff import is_empty, origin_at
from flowplan.planner.manifests import Manifests, traits
from flowplan.planner.manifests.names import is_own_label
from flowplan.schemas.plans import ABSENT
from flowplan.schemas.pointers import escape, unescape
from flowplan.schemas.runs import Json, Objects, Rendered
from flowplan.schemas.secrets import TOKEN, reveal


def with_all(recorded: Json, asked: Json) -> Json:
    """Return what is recorded of an object with all else that its maker has asked for, so that the next plan shows it."""
    if isinstance(recorded, Mapping) and isinstance(asked, Mapping):
        alike = {key: with_all(value, asked[key]) if key in asked else value for key, value in recorded.items()}
        return alike | {key: value for key, value in asked.items() if key not in recorded}
    if not isinstance(recorded, list) or not isinstance(asked, list):
        return recorded
    named = {one["name"]: one for one in recorded if isinstance(one, Mapping) and "name" in one}
    if len(named) < len(recorded):
        return recorded
    others = {str(one.get("name")): one for one in asked if isinstance(one, Mapping)}
    found = [with_all(one, others.get(name)) for name, one in named.items()]
    return [*found, *(one for name, one in others.items() if name not in named)]


@dataclass(frozen=True, slots=True)
class Takeover:
    """How one object is taken over.

    Attributes:
        rendered: what the spec wants of the attempt that the object becomes.
        secrets: token -> value, for comparisons in memory.
        sealed: (token, live value) -> the token that shows the live value's fingerprint instead.
    """

    rendered: Rendered
    manifests: Manifests
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    sealed: Callable[[str, str], str] = lambda token, value: token

    def objects(self, live: Objects | None) -> Objects:
        """Return the objects to record, without any secret value.

        What the spec does not set is left out; flowplan's own defaults, names and labels are recorded as wanted.
        """
        if live is None:
            return self.rendered.objects
        return {
            kind: self._merged(wanted, live[kind], f"/{kind}") if kind in live else wanted
            for kind, wanted in self.rendered.objects.items()
        }

    def resealed(self, applied: Json, live: Json, wanted: Json = None) -> Json:
        """Return what was applied under another key, with our own token wherever the live value is the wanted secret."""
        wanted = self.rendered.objects if wanted is None else wanted
        if isinstance(applied, Mapping) and isinstance(live, Mapping) and isinstance(wanted, Mapping):
            return {
                key: self.resealed(value, live[key], wanted[key]) if key in live and key in wanted else value
                for key, value in applied.items()
            }
        if isinstance(applied, list) and isinstance(live, list) and isinstance(wanted, list):
            if len(applied) == len(live) == len(wanted):
                return [self.resealed(*three) for three in zip(applied, live, wanted, strict=True)]
        elif isinstance(applied, str) and TOKEN.search(applied) and isinstance(wanted, str):
            return wanted if reveal(wanted, self.secrets) == live else applied
        return applied

    def _merged(self, wanted: Json, live: Json, path: str) -> Json:
        if (
            wanted == live
            or is_empty(wanted)
            or self._is_own(path, wanted)
            or (is_empty(live) and self._unwritten(path))
        ):
            return wanted
        if isinstance(wanted, Mapping):
            return self._mapping(wanted, live if isinstance(live, Mapping) else {}, path)
        if isinstance(wanted, list):
            return self._list(wanted, live, path)
        if isinstance(wanted, str) and TOKEN.search(wanted):
            return self._secret(wanted, live)
        return wanted if self.manifests.equal(path, wanted, live) else self._hidden(live)

    def _is_own(self, path: str, wanted: Json) -> bool:
        return is_own_label(unescape(path.rpartition("/")[2])) or (
            isinstance(wanted, str) and wanted in (self.rendered.name, self.rendered.run_id)
        )

    def _unwritten(self, path: str) -> bool:
        """Return whether the value is a default of flowplan's; an object that lacks it does not differ."""
        return origin_at(self.rendered.origins, path) in ("", "default")

    def _mapping(self, wanted: Mapping[str, Json], live: Mapping[str, Json], path: str) -> dict[str, Json]:
        found: dict[str, Json] = {}
        for key, value in wanted.items():
            place = f"{path}/{escape(key)}"
            unknown = path.count("/") == 1  # a part of the object that the engine tells nothing of
            if key in live or (isinstance(value, Mapping) and value):
                found[key] = self._merged(value, live.get(key, ABSENT), place)
            elif unknown or is_empty(value) or self._is_own(place, value) or self._unwritten(place):
                found[key] = value
        return found

    def _list(self, wanted: list[Json], live: Json, path: str) -> Json:
        if not isinstance(live, list):
            return self._hidden(live)
        if path in traits(self.manifests).VARIABLES and all("=" in str(one) for one in wanted):
            return self._pairs(wanted, live)
        if all(isinstance(one, Mapping) for one in wanted):
            return self._items(wanted, live, path)
        if len(wanted) == len(live):
            merged = (
                self._merged(one, other, f"{path}/{n}") for n, (one, other) in enumerate(zip(wanted, live, strict=True))
            )
            mixed = list(merged)
            return wanted if self.manifests.equal(path, wanted, mixed) else mixed
        return wanted if self.manifests.equal(path, wanted, live) else self._hidden(live)

    def _items(self, wanted: list[Any], live: list[Json], path: str) -> list[Json]:
        """Merge the mappings of two lists, by their names, else by their places; others are left out."""
        named = {one["name"]: one for one in live if isinstance(one, Mapping) and "name" in one}
        found = []
        for index, one in enumerate(wanted):
            other = named.get(one.get("name"))
            if other is None and len(wanted) == len(live):
                other = live[index]
            if isinstance(other, Mapping):
                found.append(self._merged(one, other, f"{path}/{index}"))
        return found

    def _pairs(self, wanted: list[Any], live: list[Json]) -> list[Json]:
        """Merge ``NAME=VALUE`` entries by name; those that only the live object has came with its image."""
        values = {str(one).partition("=")[0]: one for one in live}
        merged = [self._merged(one, values[name], "") for one in wanted if (name := one.partition("=")[0]) in values]
        return merged

    def _secret(self, wanted: str, live: Json) -> Json:
        """Return the token when the live value is the secret, else one that shows that it is another."""
        if reveal(wanted, self.secrets) == live:
            return wanted
        return TOKEN.sub(lambda m: self.sealed(m.group(0), str(live)), wanted)

    def _hidden(self, live: Json) -> Json:
        """Return a live value without any secret that flowplan knows."""
        if isinstance(live, str):
            for token, value in self.secrets.items():
                live = live.replace(value, token) if value else live
            return live
        if isinstance(live, Mapping):
            return {key: self._hidden(value) for key, value in live.items()}
        return [self._hidden(one) for one in live] if isinstance(live, list) else live
