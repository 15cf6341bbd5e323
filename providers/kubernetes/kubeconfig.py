"""Reading kubeconfig files: which exist, merged as kubectl merges them, and the context that is meant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowplan.schemas.errors import ProviderError
from flowplan.schemas.files import Unreadable, is_file, is_missing, read_bounded
from flowplan.schemas.sources import did_you_mean

_LISTS = ("clusters", "contexts", "users")
_TEXTS = (
    "server", "certificate-authority", "certificate-authority-data", "proxy-url", "tls-server-name", "cluster", "user",
    "namespace", "token", "tokenFile", "client-certificate", "client-certificate-data", "client-key", "client-key-data",
    "username", "password",
)  # fmt: skip
_MAPPINGS = ("exec", "auth-provider")
_PATHS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
DEFAULT = "~/.kube/config"
MOST = 10_000_000
"""Bytes of a kubeconfig, a certificate, a key or a token."""


def load(given: str | Mapping[str, Any] | None, base: Path) -> tuple[dict[str, Any], str]:
    """Return the merged kubeconfig and a name for it in messages.

    Args:
        given: a path (or several, separated as in ``KUBECONFIG``), an inline mapping, or None for the default.
        base: directory to which relative paths of an inline mapping, or ``given`` itself, are relative.

    Raises:
        ProviderError: there is none, or it is not a kubeconfig.
    """
    if isinstance(given, Mapping):
        return _merge([_absolute(_checked(dict(given), "the inline kubeconfig"), base)]), "the inline kubeconfig"
    text = given or os.environ.get("KUBECONFIG") or DEFAULT
    paths = [base / Path(part).expanduser() for part in text.split(os.pathsep) if part]
    found = [path for path in paths if not is_missing(path)]
    if not found:
        raise ProviderError(
            f"no kubeconfig: {text} does not exist",
            hint="set KUBECONFIG or the provider's kubeconfig, or run inside the cluster",
            reason="NoKubeconfig",
        )
    return _merge([_absolute(_read(path), path.parent) for path in found]), str(text)


def default_exists() -> bool:
    """Return whether the environment has a kubeconfig that a user would expect to be used."""
    text = os.environ.get("KUBECONFIG") or DEFAULT
    return any(is_file(Path(part).expanduser()) for part in text.split(os.pathsep) if part)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _checked(yaml.load(read_bounded(path, MOST, pipes=True).decode(), Loader=loader), str(path))
    except (OSError, UnicodeDecodeError, Unreadable) as error:
        raise ProviderError(f"the kubeconfig {path} cannot be read: {error}", reason="BadKubeconfig") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ProviderError(f"the kubeconfig {path} is not YAML: {what}{where}", reason="BadKubeconfig") from None
    except (
        ValueError,
        TypeError,
        RecursionError,
    ):  # a date that does not exist, a list as a key, lists in lists in ...
        raise ProviderError(f"the kubeconfig {path} is not YAML that can be read", reason="BadKubeconfig") from None


def _checked(document: Any, name: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ProviderError(f"{name} is not a kubeconfig: it is not a mapping", reason="BadKubeconfig")
    for key in _LISTS:
        entries = document.get(key) or []
        if not isinstance(entries, list) or not all(
            isinstance(e, dict) and isinstance(e.get("name"), str) for e in entries
        ):
            raise ProviderError(
                f"{name} is not a kubeconfig: {key} must be a list of entries with a name", reason="BadKubeconfig"
            )
        for one in entries:
            _check_entry(one, key.removesuffix("s"), name)
    if not isinstance(document.get("current-context") or "", str):
        raise ProviderError(f"{name} is not a kubeconfig: current-context must be a string", reason="BadKubeconfig")
    return document


def _check_entry(one: Mapping[str, Any], part: str, name: str) -> None:
    """Refuse values of other types; they may be secrets, so only their keys are told."""
    content = one.get(part) or {}
    wrong = [] if isinstance(content, dict) else [f"{part} must be a mapping"]
    for key in _TEXTS if not wrong else ():
        if not isinstance(content.get(key) or "", str):
            wrong.append(f"{key} must be a string")
    for key in _MAPPINGS if isinstance(content, dict) else ():
        if not isinstance(content.get(key) or {}, dict):
            wrong.append(f"{key} must be a mapping")
    if wrong:
        message = f'{name} is not a kubeconfig: {part} "{one["name"]}": {wrong[0]}'
        raise ProviderError(message, reason="BadKubeconfig")


def _absolute(document: dict[str, Any], base: Path) -> dict[str, Any]:
    """Return a kubeconfig with absolute paths: they are relative to the file they are written in."""
    copy = dict(document)
    for key, part in (("clusters", "cluster"), ("users", "user")):
        copy[key] = [{**e, part: _resolved(e.get(part) or {}, base)} for e in document.get(key) or []]
    return copy


def _resolved(entry: Mapping[str, Any], base: Path) -> dict[str, Any]:
    return {k: str(base / Path(v).expanduser()) if k in _PATHS and v else v for k, v in entry.items()}


def _merge(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge kubeconfigs as kubectl does: the first file that names an entry wins."""
    merged: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "current-context": ""}
    for key in _LISTS:
        named: dict[str, Any] = {}
        for document in documents:
            for entry in document.get(key) or []:
                named.setdefault(entry["name"], entry)
        merged[key] = list(named.values())
    merged["current-context"] = next((d["current-context"] for d in documents if d.get("current-context")), "")
    return merged


def names(document: Mapping[str, Any], key: str) -> list[str]:
    """Return the names of all ``contexts``, ``clusters`` or ``users``."""
    return [entry["name"] for entry in document[key]]


def entry(document: Mapping[str, Any], key: str, name: str, source: str) -> dict[str, Any]:
    """Return the entry called ``name`` of a kubeconfig's list.

    Raises:
        ProviderError: no such entry; a missing context lists those that exist.
    """
    part = key.removesuffix("s")
    for found in document[key]:
        if found["name"] == name:
            return dict(found.get(part) or {})
    raise _unknown(part, name, names(document, key), source)


def _unknown(part: str, name: str, known: list[str], source: str) -> ProviderError:
    message = f'{source} has no {part} "{name}"' if name else f"{source} sets no current-context"
    listed = f"it has {', '.join(sorted(known))}" if known else f"it has no {part} at all"
    hint = f"{did_you_mean(name, known)} {listed}".strip()
    return ProviderError(message, hint=hint, reason="BadKubeconfig")
