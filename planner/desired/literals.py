"""Secrets that are written out in a spec: found where they must stand, so that nothing but their tokens goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flowplan.planner.desired import expressions
from flowplan.planner.desired.sealing import Sealer
from flowplan.schemas.pointers import pointer_to
from flowplan.schemas.runs import Json
from flowplan.schemas.secrets import SecretSource, tokens_in
from flowplan.schemas.sources import Path

IN_KUBECONFIG = frozenset(
    ["token", "password", "client-key-data", "id-token", "access-token", "refresh-token", "client-secret"]
)
"""Keys of a kubeconfig whose values are secret, wherever they stand."""

Seal = Callable[[Json, Path], Json]
"""What a value at a path becomes."""


class LiteralError(ValueError):
    """A secret that is written where it cannot be found again."""


def sealed_literal(written: Json, value: Json, file: str, path: Path, sealer: Sealer) -> Json:
    """Return the token of a secret that the spec holds in clear; a token, or what is no text, stays as it is.

    Args:
        written: the value as the spec has it, before expressions; value: the same after them.
        file: the spec, relative to its directory; path: of the value in it.

    Raises:
        LiteralError: a variable that everybody may see makes the secret.
    """
    if not isinstance(value, str) or tokens_in(value):
        return value
    template = expressions.parse(written) if isinstance(written, str) and "${" in written else None
    if written is None or (template and template.references):
        raise LiteralError("is a secret that would be shown")
    pointer = pointer_to(path)
    return sealer.token_for(SecretSource("from_spec", f"{file}#{pointer}"), value)


def sealed_kubeconfig(value: Json, path: Path, seal: Seal) -> Json:
    """Return an inline kubeconfig with every secret in it sealed."""
    if isinstance(value, Mapping):
        return {
            key: seal(item, (*path, key)) if key in IN_KUBECONFIG else sealed_kubeconfig(item, (*path, key), seal)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [sealed_kubeconfig(item, (*path, index), seal) for index, item in enumerate(value)]
    return value
