"""Values that Docker users write as text: volumes and hosts."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

OPTIONS = {"bind": "BindOptions", "volume": "VolumeOptions", "image": "ImageOptions", "tmpfs": "TmpfsOptions"}
"""Type of a mount -> the options that only such mounts have."""

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\[^\\]+\\")
_OPTION_GROUPS = (
    ("ro", "rw"),
    ("z", "Z"),
    ("nocopy",),
    ("consistent", "cached", "delegated", "default"),
    ("shared", "rshared", "slave", "rslave", "private", "rprivate"),
)


class Volume(NamedTuple):
    """One entry of ``docker.volumes``: a bind of the host or a named volume, or an anonymous volume (``bind`` "").

    Attributes:
        bind: ``source:target[:options]`` as the Engine takes it, or "".
        target: the path in the container.
        remark: what the engine will dislike about it, or "".
    """

    bind: str
    target: str
    remark: str = ""


def parse_volume(text: str, base: str) -> Volume:
    """Parse one volume; relative host paths become absolute against ``base``.

    Raises:
        ValueError: with the reason.
    """
    if text.startswith("/") and ":" not in text:
        return Volume("", text)
    source, target, options = _split_volume(text)
    if not source or not target:
        raise ValueError(f'"{text}" is not a volume: write source:/path/in/the/container[:options]')
    bound = _source(source, base)
    if bound.startswith("/") and not target.startswith("/"):
        raise ValueError(f'"{target}" in "{text}" must be an absolute path in the container')
    _check_options(options, text)
    remark = "" if target.startswith("/") or _WINDOWS.match(target) else f'"{target}" is not an absolute path'
    return Volume(":".join([bound, target, *([options] if options else [])]), target, remark)


def _split_volume(text: str) -> tuple[str, str, str]:
    drive = text[:2] if re.match(r"[A-Za-z]:[\\/]", text) else ""
    parts = text[len(drive) :].split(":")
    if len(parts) not in (2, 3) or (len(parts) == 3 and not parts[2]):
        raise ValueError(f'"{text}" is not a volume: write source:/path/in/the/container[:options]')
    return drive + parts[0], parts[1], parts[2] if len(parts) == 3 else ""


def _source(source: str, base: str) -> str:
    if source.startswith("/") or _WINDOWS.match(source):
        return source
    if source in (".", "..") or source.startswith(("./", "../")):
        return posixpath.normpath(posixpath.join(base, source))
    if source.startswith(("~", "$")):
        raise ValueError(f'"{source}" is not expanded: write the path itself, or ./ relative to the spec')
    if not _VOLUME_NAME.fullmatch(source):
        raise ValueError(
            f'"{source}" is neither a volume\'s name nor a path: write ./{source} for a path beside the spec'
        )
    return source


def _check_options(options: str, text: str) -> None:
    given = options.split(",") if options else []
    known = [option for group in _OPTION_GROUPS for option in group]
    for option in given:
        if option not in known:
            raise ValueError(f'"{option}" in "{text}" is not a volume option: {", ".join(known)}')
    for group in _OPTION_GROUPS:
        if len([option for option in given if option in group]) > 1:
            raise ValueError(f'"{options}" in "{text}" contradicts itself')


def hosts(value: Any) -> dict[str, str]:
    """Return ``extra_hosts`` as host -> address, from a mapping or a list of ``host:address``.

    Raises:
        ValueError: with the reason.
    """
    pairs = value.items() if isinstance(value, Mapping) else (str(item).partition(":")[::2] for item in value)
    result: dict[str, str] = {}
    for host, address in pairs:
        if not host or not address or re.search(r"\s", f"{host}{address}"):
            shown = f"{host}:{address}" if address else host
            raise ValueError(f'"{shown}" is not a host: write name:address')
        if host in result:
            raise ValueError(f'"{host}" is given twice')
        result[host] = str(address)
    return result
