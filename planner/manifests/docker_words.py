"""What people write in ``docker.create_options``: single values, and names that stand for a field of the run."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from flowplan.schemas.docker_api import Scalar
from flowplan.schemas.documents import scalar_text
from flowplan.schemas.fields import kind_of
from flowplan.schemas.quantities import duration, nanoseconds, size
from flowplan.schemas.runs import Json

_IMAGE_FIELDS = {
    "Image": "image", "Cmd": "command", "Entrypoint": "entrypoint", "Env": "env", "Labels": "labels",
    "WorkingDir": "working_dir", "Volumes": "docker.volumes", "Binds": "docker.volumes", "Memory": "docker.mem_limit",
    "MemorySwap": "docker.memswap_limit", "NetworkMode": "docker.network_mode", "ExtraHosts": "docker.extra_hosts",
    "Privileged": "docker.privileged", "AutoRemove": "docker.auto_remove", "RestartPolicy": "retries",
    "NanoCpus": "resources.cpu",
}  # fmt: skip

OWNED = _IMAGE_FIELDS | {
    "image": "image", "command": "command", "entrypoint": "entrypoint", "environment": "env", "env_file": "env_file",
    "labels": "labels", "working_dir": "working_dir", "name": "name", "container_name": "name",
    "volumes": "docker.volumes", "binds": "docker.volumes", "mem_limit": "docker.mem_limit",
    "memswap_limit": "docker.memswap_limit", "network": "docker.networks", "networks": "docker.networks",
    "network_mode": "docker.network_mode", "extra_hosts": "docker.extra_hosts", "privileged": "docker.privileged",
    "auto_remove": "docker.auto_remove", "remove": "docker.auto_remove", "restart": "retries",
    "restart_policy": "retries", "nano_cpus": "resources.cpu", "cpus": "resources.cpu", "gpus": "resources.gpu",
    "pull_policy": "image_pull_policy", "depends_on": "needs", "deploy": "resources",
}  # fmt: skip
"""Names that a field of the run stands for, and that field."""

FLAGS = {
    "v": "docker.volumes", "volume": "docker.volumes", "e": "env", "env": "env", "l": "labels", "label": "labels",
    "label_file": "labels", "p": "ports", "publish": "ports", "P": "publish_all_ports",
    "publish_all": "publish_all_ports", "mount": "mounts", "net": "docker.networks", "rm": "docker.auto_remove",
    "m": "docker.mem_limit", "memory": "docker.mem_limit", "memory_swap": "docker.memswap_limit",
    "memory_reservation": "mem_reservation", "memory_swappiness": "mem_swappiness", "device": "devices",
    "add_host": "docker.extra_hosts", "health_cmd": "healthcheck.test", "health_interval": "healthcheck.interval",
    "health_timeout": "healthcheck.timeout", "health_retries": "healthcheck.retries",
    "health_start_period": "healthcheck.start_period", "no_healthcheck": "healthcheck: {disable: true}",
    "log_driver": "log_config.type", "log_opt": "log_config.config", "u": "user", "w": "working_dir",
    "workdir": "working_dir", "h": "hostname", "t": "tty", "i": "stdin_open", "interactive": "stdin_open",
    "dns_option": "dns_opt", "link": "links", "c": "cpu_shares", "pull": "image_pull_policy",
    "annotation": "annotations", "network_alias": "NetworkingConfig", "ip": "NetworkingConfig",
    "ip6": "NetworkingConfig", "d": "flowplan apply --detach", "detach": "flowplan apply --detach", "uts": "uts_mode",
    "device_cgroup_rule": "device_cgroup_rules", "userns": "userns_mode",
}  # fmt: skip
"""Flags of ``docker run`` (with ``_`` for ``-``) that are called otherwise here; most others have the same name."""


def must_be(words: str, value: Json) -> ValueError:
    """Return the error of a value that is of another kind."""
    return ValueError(f"must be {words}, not {kind_of(value)}")


def _text(value: Json) -> str:
    if value is None or isinstance(value, bool | list | dict):
        raise must_be("a string", value)
    return scalar_text(value)


def _whole(value: Json) -> int:
    if isinstance(value, str) and value.removeprefix("-").isdecimal():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise must_be("a whole number", value)


def _flag(value: Json) -> bool:
    if isinstance(value, bool):
        return value
    raise must_be("true or false", value)


def _time(value: Json) -> int:
    """Return nanoseconds: a number is that already, as for the Engine and docker-py."""
    if isinstance(value, str) and not value.isdecimal():
        return nanoseconds(value)
    amount = _whole(value)
    if 0 < amount < 1_000_000:
        raise ValueError(f'{amount} is nanoseconds, and the Engine takes no less than a millisecond: write "{amount}s"')
    return amount


def _microseconds(value: Json) -> int:
    """Return microseconds: a number is that already; compose files may have a duration (``400ms``)."""
    if isinstance(value, str) and not value.removeprefix("-").isdecimal():
        amount, rest = divmod(nanoseconds(value), 1000)
        if rest:
            raise must_be("whole microseconds", value)
        return amount
    return _whole(value)


def _seconds(value: Json) -> int:
    if isinstance(value, str) and not value.removeprefix("-").isdecimal():
        seconds = duration(value)
        if not seconds.is_integer():
            raise must_be("whole seconds", value)
        return int(seconds)
    return _whole(value)


def _mode(value: Json) -> int:
    """Return a mode: a text is octal, as people write it; a number is what YAML made of it (``0o700`` is 448)."""
    if isinstance(value, str):
        digits = value.removeprefix("0o")
        if digits and not set(digits) - set("01234567"):
            return int(digits, 8)
        raise ValueError(f'must be a mode such as "0700" or 0o700, not {kind_of(value)}')
    return _whole(value)


def _size(value: Json) -> int:
    if value is None or isinstance(value, bool | list | dict):
        raise must_be("a size such as 512m, 1.5g or 16Gi", value)
    return size(value)


def _address(value: Json) -> str:
    text = _text(value)
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise must_be("an IP address", value) from None
    return text


_READ: dict[str, Callable[[Json], Any]] = {
    "text": _text,
    "whole": _whole,
    "flag": _flag,
    "size": _size,
    "time": _time,
    "microseconds": _microseconds,
    "seconds": _seconds,
    "mode": _mode,
    "count": lambda value: -1 if value == "all" else _whole(value),
    "address": _address,
}


def scalar(shape: Scalar, value: Json) -> Json:
    """Return the Engine's value of one in a spec.

    Raises:
        ValueError: with the reason.
    """
    if isinstance(value, str) and value.startswith("(sensitive "):
        if shape.kind in ("text", "address"):
            return value
        raise ValueError("is sensitive, which only a text can be")
    found = _READ[shape.kind](value)
    begins = any(word.endswith(":") and str(found).startswith(word) for word in shape.words)
    if shape.words and found not in shape.words and not begins:
        raise must_be("one of " + ", ".join(word for word in shape.words if word), value)
    if (shape.low is not None and found < shape.low) or (shape.high is not None and found > shape.high):
        limits = f"{shape.low} or more" if shape.high is None else f"from {shape.low} to {shape.high}"
        raise must_be(limits, found)
    return found
