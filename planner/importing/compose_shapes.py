"""What docker compose takes at the places of a compose file that the importer looks into."""

from __future__ import annotations

from typing import Any

_MAPPING, _ENTRY = (dict, "a mapping"), ((dict, type(None)), "a mapping")
_EITHER, _WORDS = ((dict, list), "a mapping or a list"), ((str, list), "a text or a list")
_NAMED, _SCALAR = ((str, dict), "a text or a mapping"), ((str, int, float), "a text or a number")
_OF_SERVICE: dict[str, tuple[Any, str]] = {
    "": _MAPPING,
    **dict.fromkeys(
        ("image", "container_name", "working_dir", "network_mode", "restart", "pull_policy"), (str, "a text")
    ),
    **dict.fromkeys(("command", "entrypoint"), _WORDS),
    **dict.fromkeys(("command/*", "entrypoint/*", "cpus", "mem_limit", "memswap_limit", "stop_grace_period"), _SCALAR),
    **dict.fromkeys(("environment", "labels", "depends_on", "networks", "extra_hosts"), _EITHER),
    **dict.fromkeys(("environment/*", "labels/*"), ((str, int, float, type(None)), "a text or a number")),
    **dict.fromkeys(("extra_hosts/*", "profiles/*"), (str, "a text")),
    **dict.fromkeys(("depends_on/*", "networks/*"), ((str, dict, type(None)), "a text or a mapping")),
    "env_file": ((str, list), "a text or a list"),
    "env_file/*": _NAMED,
    "env_file/*/path": (str, "a text"),
    **dict.fromkeys(
        ("volumes", "secrets", "configs", "profiles", "deploy/resources/reservations/devices"), (list, "a list")
    ),
    **dict.fromkeys(("volumes/*", "secrets/*", "configs/*"), _NAMED),
    **dict.fromkeys(("volumes/*/source", "volumes/*/target", "secrets/*/target", "configs/*/target"), (str, "a text")),
    **dict.fromkeys(("deploy", "deploy/resources", "deploy/resources/limits", "logging", "logging/options"), _MAPPING),
    **dict.fromkeys(("deploy/resources/reservations", "deploy/resources/reservations/devices/*"), _MAPPING),
    **dict.fromkeys(("deploy/resources/limits/cpus", "deploy/resources/limits/memory"), _SCALAR),
    "deploy/resources/reservations/devices/*/capabilities": (list, "a list"),
    "deploy/restart_policy": _MAPPING,
    "deploy/restart_policy/condition": (str, "a text"),
    "deploy/restart_policy/max_attempts": (int, "a whole number"),
}
SHAPES = {f"services/*/{place}".rstrip("/"): shape for place, shape in _OF_SERVICE.items()} | {
    f"{kind}{place}": shape
    for kind in ("networks", "volumes", "secrets", "configs")
    for place, shape in (("", _MAPPING), ("/*", _ENTRY), ("/*/name", (str, "a text")), ("/*/file", (str, "a text")))
}
"""Place in a compose file -> what docker compose takes there, as far as it is looked into here."""
