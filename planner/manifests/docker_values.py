"""Values that Docker users write as text: sizes, CPUs, volumes and hosts (D17-D20, D33)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

NANO = 1_000_000_000
_DOCKER_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:(b)|([kmg])i?b?)?", re.IGNORECASE)
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?")
_DOCKER_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_QUANTITY_UNITS = {f"{unit}i": 1 << (10 * power) for power, unit in enumerate("KMGTPE", 1)} | {
    unit: 1000**power for power, unit in enumerate("kMGTPE", 1)
}
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\[^\\]+\\")
_OPTION_GROUPS = (
    ("ro", "rw"),
    ("z", "Z"),
    ("nocopy",),
    ("consistent", "cached", "delegated", "default"),
    ("shared", "rshared", "slave", "rslave", "private", "rprivate"),
)


def docker_size(value: Any, *, unlimited: bool = False) -> int:
    """Bytes of a Docker size: a number, or ``512m``, ``1.5g``, ``100000b`` (D19); ``-1`` where ``unlimited`` is legal.

    Raises:
        ValueError: with the reason, for anything else.
    """
    text = str(value).strip()
    if unlimited and text == "-1":
        return -1
    match = _DOCKER_SIZE.fullmatch(text)
    if isinstance(value, bool) or not match:
        raise ValueError(f'"{value}" is not a size: write bytes, or a number with b, k, m or g')
    return int(Decimal(match[1]) * _DOCKER_UNITS.get((match[3] or "").lower(), 1))


def portable_size(value: Any) -> int:
    """Bytes of a Kubernetes quantity (``16Gi``, ``1G`` = 10^9), else of a Docker size (``2g`` = 2^31, ``512m``); A10.

    Raises:
        ValueError: with the reason, for anything else.
    """
    match = _QUANTITY.fullmatch(str(value).strip())
    if isinstance(value, bool) or not match:
        return docker_size(value)
    return int(Decimal(match[1]) * _QUANTITY_UNITS.get(match[2] or "", 1))


def nano_cpus(value: Any) -> int:
    """Billionths of a CPU: ``4``, ``0.5``, ``500m`` (A10).

    Raises:
        ValueError: with the reason, for anything else.
    """
    text = str(value).strip()
    milli = text.endswith("m")
    try:
        amount = Decimal(text[:-1] if milli else text) * (NANO // 1000 if milli else NANO)
    except InvalidOperation:
        amount = Decimal("NaN")
    if isinstance(value, bool) or not amount.is_finite() or amount <= 0:
        raise ValueError(f'"{value}" is not a number of CPUs: write 2, 0.5 or 500m')
    return int(amount)


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
    """One volume (D18); relative host paths become absolute against ``base``.

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
    """``extra_hosts`` as host -> address, from a mapping or a list of ``host:address``.

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
