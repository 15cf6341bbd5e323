"""JSON documents of typed values, and back: the annotations of a type say what its document holds.

A dataclass or NamedTuple is an object with a member for each field, in the order of the fields; an enum is its value, a
tuple a list of equal things, ``Any`` stays as it is. ``Annotated[T, Member(...)]`` says where a member differs from that,
and ``Annotated[T, function]`` checks what was read: the function raises a ValueError.

This is no work for pydantic: importing it and making an adapter of Plan takes 180 ms of CPU where the types alone take
50 ms, and `status`, `events`, `logs` and `destroy`, whose start-up is most of their time, do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache, partial
from operator import attrgetter
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from flowplan.schemas.pointers import pointer_to

T = TypeVar("T")
Convert = Callable[[Any], Any]

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}


class Misfit(ValueError):
    """A document is not what its type says; ``place`` is a JSON Pointer to the part that is wrong."""

    def __init__(self, problem: str, place: str = "") -> None:
        super().__init__(f"{place or '/'}: {problem}")
        self.problem, self.place = problem, place

    def inside(self, *keys: str | int) -> Misfit:
        """Return the same fault, seen from the value that holds the part at these keys."""
        return Misfit(self.problem, pointer_to(keys) + self.place)


class Member(NamedTuple):
    """How a field stands in a document, where that is not plain.

    Attributes:
        within: the member that holds it, "" for the document itself; name: its name in there, "" for the field's own.
        required: it must be there although the field has a default.
        absent: the value that it has where it is left out; last: it stands behind the other members.
    """

    within: str = ""
    name: str = ""
    required: bool = False
    absent: Any = MISSING
    last: bool = False


class _Field(NamedTuple):
    name: str
    kind: Any
    member: Member
    needed: bool

    @property
    def place(self) -> tuple[str, ...]:
        """Return the keys that lead to the member."""
        return (self.member.within, self.member.name or self.name) if self.member.within else (self.name,)


def encode(value: object) -> Any:
    """Return the JSON document of a dataclass or a NamedTuple."""
    kind: Any = type(value)
    return _encoder(kind)(value)


def decode(kind: type[T], document: Any, *, extensible: bool = False) -> T:
    """Return the value of a document; its numbers stay as they are written, so that it is encoded to the same again.

    Args:
        extensible: ignore members that no field knows, instead of refusing them.

    Raises:
        Misfit: it is no document of this type.
    """
    what: Any = kind
    found: T = _decoder(what, extensible)(document)
    return found


def like(kind: Any) -> Callable[[Any], object]:
    """Return a check for ``Annotated`` that a document can be read as ``kind``; it stays what it is."""
    return lambda document: _decoder(kind, True)(document)


@cache
def _fields(kind: Any) -> list[_Field] | None:
    """Return the fields of a dataclass or NamedTuple in the order of the document, None for other types."""
    if isinstance(kind, type) and is_dataclass(kind):
        defaults = {f.name: f.default if f.default_factory is MISSING else None for f in fields(kind)}
    elif hasattr(kind, "_field_defaults"):
        defaults = {name: kind._field_defaults.get(name, MISSING) for name in kind._fields}
    else:
        return None
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for name, default in defaults.items():
        marks = getattr(hints[name], "__metadata__", ())
        member = next((mark for mark in marks if isinstance(mark, Member)), Member())
        needed = member.required or (default is MISSING and member.absent is MISSING)
        found.append(_Field(name, hints[name], member, needed))
    return sorted(found, key=lambda field: field.member.last)


# --- values to documents --------------------------------------------------------------------------------------------


def _same(value: Any) -> Any:
    return value


@cache
def _encoder(kind: Any) -> Convert:
    origin, arguments = get_origin(kind), get_args(kind)
    if known := _fields(kind):
        return _record_encoder(known)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return attrgetter("value")
    if origin is Annotated:
        return _encoder(arguments[0])
    each = next((found for one in arguments if (found := _encoder(one)) is not _same), _same)
    if origin is tuple:
        return list if each is _same else lambda values: [each(value) for value in values]
    if origin is Mapping:
        return dict if each is _same else lambda values: {key: each(value) for key, value in values.items()}
    if origin in (Union, UnionType) and each is not _same:
        return lambda value: None if value is None else each(value)
    return _same


def _record_encoder(known: list[_Field]) -> Convert:
    names = [field.name for field in known]
    values = attrgetter(*names)
    converters = [(field.name, made) for field in known if (made := _encoder(field.kind)) is not _same]
    omitted = [(field.name, field.member.absent) for field in known if field.member.absent is not MISSING]
    nested = [(field.name, field.place) for field in known if field.member.within]

    def convert(value: Any) -> dict[str, Any]:
        document = dict(zip(names, values(value), strict=True))
        for name, made in converters:
            document[name] = made(document[name])
        for name, absent in omitted:
            if document[name] is absent:
                del document[name]
        inner: dict[str, dict[str, Any]] = {}
        for name, (within, key) in nested:
            inner.setdefault(within, {})[key] = document.pop(name)
        return document | inner if inner else document

    return convert


# --- documents to values --------------------------------------------------------------------------------------------


@cache
def _decoder(kind: Any, extensible: bool) -> Convert:
    origin, arguments = get_origin(kind), get_args(kind)
    if known := _fields(kind):
        return _record_decoder(kind, known, extensible)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return partial(_read_enum, {str(member.value): member for member in kind})
    if origin is Annotated:
        made, checks = _decoder(arguments[0], extensible), [mark for mark in arguments[1:] if callable(mark)]
        return partial(_read_checked, made, checks[0]) if checks else made
    if origin is tuple:
        length = None if arguments[-1] is Ellipsis else len(arguments)
        return partial(_read_tuple, _decoder(arguments[0], extensible), length)
    if origin in (Mapping, dict):
        return partial(_read_mapping, _decoder(arguments[1], extensible))
    if kind is Any:
        return _same
    if set(kinds := arguments or (kind,)) <= _WORDS.keys():
        allowed = frozenset((*kinds, int) if float in kinds else kinds)
        return partial(_read_scalar, allowed, " or ".join(_WORDS[one] for one in kinds))
    [each] = (_decoder(one, extensible) for one in arguments if one is not NoneType)
    return lambda value: None if value is None else each(value)


def _read_scalar(allowed: frozenset[type], wanted: str, value: Any) -> Any:
    if value.__class__ in allowed or (isinstance(value, str) and str in allowed):
        return value
    raise Misfit(f"must be {wanted}")


def _read_enum(known: Mapping[str, Enum], value: Any) -> Enum:
    if isinstance(value, str) and value in known:
        return known[value]
    other = f", not {value[:40]}" if isinstance(value, str) else ""
    raise Misfit(f"must be one of {', '.join(known)}{other}")


def _read_checked(made: Convert, check: Convert, value: Any) -> Any:
    found = made(value)
    try:
        check(found)
    except Misfit:
        raise
    except ValueError as error:
        raise Misfit(str(error)) from None
    return found


def _read_tuple(each: Convert, length: int | None, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or length not in (None, len(value)):
        raise Misfit("must be a list" if length is None else f"must be a list of {length}")
    found: list[Any] = []
    try:
        for part in value:
            found.append(each(part))
    except Misfit as error:
        raise error.inside(len(found)) from None
    return tuple(found)


def _read_mapping(each: Convert, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Misfit("must be an object")
    if each is _same:
        return value
    found = {}
    for key, part in value.items():
        try:
            found[key] = each(part)
        except Misfit as error:
            raise error.inside(key) from None
    return found


def _record_decoder(kind: Any, known: list[_Field], extensible: bool) -> Convert:
    plain = [(field.name, _decoder(field.kind, extensible)) for field in known if not field.member.within]
    nested = [(field, _decoder(field.kind, extensible)) for field in known if field.member.within]
    absent = {field.name: field.member.absent for field in known if field.member.absent is not MISSING}
    needed = {field.name for field in known if field.needed}
    members = {field.place[0] for field in known}

    def convert(document: Any) -> Any:
        if not isinstance(document, dict):
            raise Misfit("must be an object")
        found = dict(absent)
        place: tuple[str, ...] = ()
        try:
            for name, made in plain:
                if name in document:
                    place = (name,)
                    found[name] = made(document[name])
            for field, made in nested:
                within, key = place = field.place
                if isinstance(document.get(within), dict) and key in document[within]:
                    found[field.name] = made(document[within][key])
        except Misfit as error:
            raise error.inside(*place) from None
        if missing := needed - found.keys():
            raise Misfit(f"must have {', '.join(sorted(missing))}")
        if not extensible and (unknown := document.keys() - members):
            raise Misfit(f"must not have {', '.join(sorted(unknown))}")
        return kind(**found)

    return convert
