"""``docker.create_options``: from the spellings of docker-py, compose and the Engine to the body of its create call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from flowplan.planner.manifests import docker_forms
from flowplan.planner.manifests.docker_words import FLAGS, OWNED, must_be, scalar
from flowplan.schemas import docker_api as api
from flowplan.schemas.docker_api import Field, Items, Members, Named, Scalar, Shape, Texts
from flowplan.schemas.fields import kind_of
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import Path, did_you_mean

Place = tuple[str, ...]
"""Where a value is in the container: ("Config", "User"), ("Config", "HostConfig", "ShmSize"), ("Platform",)."""

_HOST: Place = ("Config", "HostConfig")
_ENDPOINTS: Place = ("Config", "NetworkingConfig", "EndpointsConfig")
_COMPOSE_GROUPS = {
    "blkio_config": {"weight": "blkio_weight", "weight_device": "blkio_weight_device"}
    | {name: name for name in ("device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops")}
}
"""Mappings of compose files whose members are fields of their own here."""


class Fault(NamedTuple):
    """What is wrong at a path inside ``create_options``."""

    path: Path
    message: str
    hint: str = ""


class Options:
    """The options of one run, converted.

    Attributes:
        placed: place in the container -> value, and the path inside ``create_options`` that it comes from.
        origins: place of a member further down -> path inside ``create_options``.
        faults: everything that is wrong with them.
    """

    def __init__(self, given: Mapping[str, Json], directory: str) -> None:
        self.placed: dict[Place, tuple[Json, Path]] = {}
        self.origins: dict[tuple[str | int, ...], Path] = {}
        self.faults: list[Fault] = []
        self._directory = directory
        for name, value in given.items():
            if value is not None:
                self._option(name, value, (name,))

    def _option(
        self, name: str, value: Json, path: Path, known: Mapping[str, tuple[Place, Field]] | None = None
    ) -> None:
        if name in ("HostConfig", "host_config") and known is None:
            for inner, item in self._mapping(value, path).items():
                self._option(inner, item, (*path, inner), _IN_HOST_CONFIG)
        elif name in ("NetworkingConfig", "networking_config"):
            self._endpoints(value, path)
        elif name in _COMPOSE_GROUPS:
            for inner, item in self._mapping(value, path).items():
                self._option(_COMPOSE_GROUPS[name].get(inner, inner), item, (*path, inner))
        elif (found := (known or _EVERYWHERE).get(name)) is None:
            self.faults.append(_unknown(name, path, known or _EVERYWHERE))
        else:
            place, field = found
            self._put(place, self._member(place[-1], field, value, path, place), path)

    def _put(self, place: Place, value: Json, path: Path) -> None:
        if value is None:
            return
        if place in self.placed and place[-1] != "ExposedPorts":
            self.faults.append(Fault(path, f"{place[-1]} is set twice", "keep one of the two spellings"))
            return
        earlier = self.placed[place][0] if place in self.placed else {}
        self.placed[place] = ({**earlier, **value} if earlier else value, path)
        if place[-1] == "PortBindings":
            self._put(("Config", "ExposedPorts"), {port: {} for port in value}, path)

    def _endpoints(self, value: Json, path: Path) -> None:
        """Take the Engine's ``EndpointsConfig``, or docker-py's mapping of networks without that level."""
        given = self._mapping(value, path)
        if "EndpointsConfig" in given:
            for name in given.keys() - {"EndpointsConfig"}:
                self.faults.append(Fault((*path, name), "unknown option", "only EndpointsConfig can stand beside it"))
            path = (*path, "EndpointsConfig")
        for network, settings in self._mapping(given.get("EndpointsConfig", given), path).items():
            place = (*_ENDPOINTS, network)
            self._put(place, self._shape(api.ENDPOINT, settings or {}, (*path, network), place), (*path, network))

    def _mapping(self, value: Json, path: Path) -> Mapping[str, Json]:
        if isinstance(value, Mapping):
            return value
        self.faults.append(Fault(path, f"must be a mapping, not {kind_of(value)}"))
        return {}

    # -- the shapes of the API; each returns None where there is a fault

    def _member(self, name: str, field: Field, value: Json, path: Path, place: tuple[str | int, ...]) -> Json:
        try:
            value = docker_forms.RESHAPED[name](value) if name in docker_forms.RESHAPED else value
        except ValueError as error:
            self.faults.append(Fault(path, str(error)))
            return None
        self.origins[place] = path
        return self._shape(field.shape, value, path, place)

    def _shape(self, shape: Shape, value: Json, path: Path, place: tuple[str | int, ...]) -> Json:
        try:
            if isinstance(shape, Scalar):
                return scalar(shape, value)
            if isinstance(shape, Items):
                return self._items(shape, value, path, place)
            if isinstance(shape, Texts):
                return self._texts(shape, value, path)
            if isinstance(shape, Named):
                pairs = self._mapping(value, path).items()
                return {str(k): self._shape(shape.of, v, (*path, k), (*place, k)) for k, v in pairs}
            return self._members(shape, value, path, place)
        except ValueError as error:
            self.faults.append(Fault(path, str(error)))
            return None

    def _items(self, shape: Items, value: Json, path: Path, place: tuple[str | int, ...]) -> Json:
        given = [value] if shape.alone and not isinstance(value, list) else value
        if not isinstance(given, list):
            raise must_be("a list", value)
        return [self._shape(shape.of, item, (*path, n), (*place, n)) for n, item in enumerate(given)]

    def _texts(self, shape: Texts, value: Json, path: Path) -> Json:
        optional = shape.sign == ":"
        given = [value] if optional and isinstance(value, str) else value
        if isinstance(given, list):
            bad = [item for item in given if not isinstance(item, str) or not (optional or shape.sign in item)]
            if bad:
                raise ValueError(f"{kind_of(bad[0])} must be written as name{shape.sign}value")
            given = dict(item.partition(shape.sign)[::2] for item in given)
        pairs = self._mapping(given, path).items()
        return {str(key): "" if item is None else self._text(item, (*path, key)) for key, item in pairs}

    def _text(self, value: Json, path: Path) -> Json:
        """Return a text of a mapping, where true and false may be written as such (``icc: true``)."""
        return str(value).lower() if isinstance(value, bool) else self._shape(api.TEXT, value, path, ())

    def _members(self, shape: Members, value: Json, path: Path, place: tuple[str | int, ...]) -> Json:
        if isinstance(value, str) and shape.name in docker_forms.SHORT:
            value = docker_forms.SHORT[shape.name](value)
        if not isinstance(value, Mapping):
            raise must_be("a mapping", value)
        known, result, before = _known(shape), dict[str, Any](), len(self.faults)
        for key, item in value.items():
            if item is None:
                continue
            if key not in known:
                near = did_you_mean(str(key), known) or f"{shape.name} takes {', '.join(shape.fields) or 'nothing'}"
                self.faults.append(Fault((*path, key), f'unknown member "{key}" of {shape.name}', near))
                continue
            steps, field = known[key]
            converted = self._member(steps[-1], field, item, (*path, key), (*place, *steps))
            holder = result.setdefault(steps[0], {}) if len(steps) > 1 else result
            if isinstance(earlier := holder.get(steps[-1]), dict) and isinstance(converted, dict):
                converted = {**earlier, **converted}
            elif earlier is not None:
                self.faults.append(Fault((*path, key), f"{steps[-1]} is set twice", "keep one of the two spellings"))
            holder[steps[-1]] = converted
        if shape.name == "Mounts" and len(self.faults) == before:
            return docker_forms.mount(result, self._directory)
        return (
            docker_forms.COMPLETED[shape.name](result)
            if shape.name in docker_forms.COMPLETED and len(self.faults) == before
            else result
        )


def _known(shape: Members) -> dict[str, tuple[tuple[str, ...], Field]]:
    """Return every spelling of the members -> where it goes."""
    known: dict[str, tuple[tuple[str, ...], Field]] = {}
    for key, field in shape.fields.items():
        known |= dict.fromkeys((key, *field.names.split()), ((key,), field))
    for flat, target in shape.inner.items():
        first, second = target.split(".")
        known[flat] = ((first, second), shape.fields[first].shape.fields[second])
    return known


def _everywhere(fields: Mapping[str, Field], place: Place) -> dict[str, tuple[Place, Field]]:
    return {
        name: ((*place, key), field) for key, field in fields.items() for name in (key, *field.names.split()) if name
    }


_IN_HOST_CONFIG = _everywhere(api.HOST_CONFIG, _HOST)
_EVERYWHERE = (
    _IN_HOST_CONFIG | _everywhere(api.CONFIG, ("Config",)) | _everywhere({"Platform": Field(api.TEXT, "platform")}, ())
)


def _unknown(name: str, path: Path, known: Mapping[str, Any]) -> Fault:
    if name in OWNED:
        return Fault(path, f'"{name}" is a field of the run', f"use {OWNED[name]}")
    bare = name.lstrip("-").partition("=")[0].replace("-", "_")
    meant = FLAGS.get(bare) or OWNED.get(bare) or next((k for k in (bare, f"{bare}s") if k in known), "")
    if name.startswith("-") or (meant and bare != name):
        hint = f"use {meant}" if meant else "options have the names of the Engine's API, docker-py or compose"
        return Fault(path, f'"{name}" is a flag of the docker command, not an option', hint)
    if meant:
        return Fault(path, f'unknown option "{name}"', f"use {meant}")
    near = did_you_mean(name, [*known, *OWNED]) or "options have the names of the Engine's API, docker-py or compose"
    return Fault(path, f'unknown option "{name}"', near)
