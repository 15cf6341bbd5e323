"""What flowplan tells people about the objects of a provider, as data that each provider's pure half brings along."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, NamedTuple

from flowplan.schemas.pointers import keys_of, member


class Kind(NamedTuple):
    """How people read objects of one kind, such as ``Job``. All places are JSON Pointers, and begin with the kind.

    Attributes:
        shorter: (beginning of a pointer, what people say instead), the first that fits; without one, the name of the
            kind is said: ``Secret.data``.
        name: the fields that no two objects on an engine may have in common; () when nothing else can take its name.
        retries: the field that says how often the engine tries again.
        no_retries: what it means when that field is not there; None when the engine has a default of its own.
        units: (name of a field, ``seconds``, ``nanoseconds``, ``bytes`` or ``nanocpus``) of numbers that people write with
            a unit.
        order: names of fields, at any depth, with spaces between, in the order in which people read them; all others follow.
    """

    shorter: tuple[tuple[str, str], ...] = ()
    name: tuple[str, ...] = ()
    retries: str = ""
    no_retries: int | None = 0
    units: tuple[tuple[str, str], ...] = ()
    order: str = ""


Kinds = Mapping[str, Kind]
"""The kinds that are known, by name. One that is not among them is read as ``Kind()`` says."""


def field_at(objects: Any, pointer: str) -> Any:
    """Return the member of objects at a pointer; None where there is none."""
    return reduce(member, keys_of(pointer), objects)
