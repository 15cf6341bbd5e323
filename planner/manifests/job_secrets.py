"""Secret values leave the Job manifest for one Secret per run; what cannot leave it is a fault."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from flowplan.schemas.pointers import escape
from flowplan.schemas.runs import Json
from flowplan.schemas.secrets import tokens_in

LEAK = "a sensitive value here would stand in clear in the Job"

_ILLEGAL_IN_KEY = re.compile(r"[^-._a-zA-Z0-9]")


@dataclass(slots=True)
class HiddenSecrets:
    """What left a manifest.

    Attributes:
        data: the Secret's ``stringData``: key -> text with tokens.
        refs: the ``secretKeyRef``s in the manifest that still need the Secret's name.
        places: key -> JSON Pointer into the Job of the place that the text came from.
    """

    data: dict[str, str] = field(default_factory=dict)
    refs: list[dict[str, Json]] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, text: str, place: str) -> dict[str, Json]:
        """Keep a text under a free key made of ``name`` (or the key that holds it already); return its reference."""
        base = _ILLEGAL_IN_KEY.sub("_", name) or "_"
        key, count = base, 1
        while self.data.get(key, text) != text:
            count += 1
            key = f"{base}_{count}"
        self.data[key] = text
        self.places.setdefault(key, place)
        reference: dict[str, Json] = {"name": "", "key": key}
        self.refs.append(reference)
        return {"secretKeyRef": reference}


def hide_secrets(job: dict[str, Json]) -> HiddenSecrets:
    """Move texts with tokens out of the env, command and args of every container, in place.

    An env entry becomes a ``secretKeyRef``; an argument becomes ``$(FLOWPLAN_SENSITIVE_n)``, which Kubernetes replaces
    when it starts the container.
    """
    hidden = HiddenSecrets()
    pod = job["spec"]["template"]["spec"]
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(pod.get(kind) or []):
            if isinstance(container, dict):
                place = f"/spec/template/spec/{kind}/{index}"
                _hide_env(container, hidden, place)
                _hide_arguments(container, hidden, place)
    return hidden


def _hide_env(container: dict[str, Json], hidden: HiddenSecrets, place: str) -> None:
    for index, entry in enumerate(container.get("env") or []):
        if isinstance(entry, dict) and tokens_in(entry.get("value")):
            name = str(entry.get("name", ""))
            entry["valueFrom"] = hidden.add(name, entry.pop("value"), f"{place}/env/{index}")


def _hide_arguments(container: dict[str, Json], hidden: HiddenSecrets, place: str) -> None:
    added = []
    for part in ("command", "args"):
        for index, text in enumerate(container.get(part) or []):
            if tokens_in(text):
                name = f"FLOWPLAN_SENSITIVE_{sum(k.startswith('FLOWPLAN_SENSITIVE_') for k in hidden.data) + 1}"
                source = hidden.add(name, text, f"{place}/{part}/{index}")
                container[part][index] = f"$({source['secretKeyRef']['key']})"
                added.append({"name": source["secretKeyRef"]["key"], "valueFrom": source})
    if added:
        container["env"] = [*(container.get("env") or []), *added]


def leaks(value: Json, path: str = "") -> Iterator[str]:
    """Yield the JSON Pointers of the strings and keys that still hold a token."""
    if isinstance(value, dict):
        for key, child in value.items():
            if tokens_in(key):
                yield path
            yield from leaks(child, f"{path}/{escape(key)}")
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from leaks(child, f"{path}/{index}")
    elif isinstance(value, str) and tokens_in(value):
        yield path
