"""What a Job's pods refer to by name and cannot start without: a pure walk over the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

KINDS = {
    "secrets": "Secret",
    "configmaps": "ConfigMap",
    "serviceaccounts": "ServiceAccount",
    "persistentvolumeclaims": "PersistentVolumeClaim",
}
"""Resource name -> kind, of everything that a pod can refer to in its namespace."""


class Reference(NamedTuple):
    """``resource`` is the API's plural; ``needed`` is False where the pod starts without it; ``where`` is a path."""

    resource: str
    name: str
    where: str
    needed: bool = True


def references(job: Mapping[str, Any]) -> Iterator[Reference]:
    """Yield every object that the pods of a Job manifest refer to."""
    spec = ((job.get("spec") or {}).get("template") or {}).get("spec") or {}
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        yield Reference("serviceaccounts", account, "serviceAccountName")
    for item in spec.get("imagePullSecrets") or []:
        if item.get("name"):
            yield Reference("secrets", item["name"], "imagePullSecrets", needed=False)
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(kind) or []):
            yield from _of_container(container, f"{kind}[{index}]")
    for volume in spec.get("volumes") or []:
        yield from _of_volume(volume, f"volumes[{volume.get('name', '')}]")


def _of_container(container: Mapping[str, Any], at: str) -> Iterator[Reference]:
    for variable in container.get("env") or []:
        source = variable.get("valueFrom") or {}
        where = f"{at}.env[{variable.get('name', '')}]"
        yield from _one("secrets", source.get("secretKeyRef"), where)
        yield from _one("configmaps", source.get("configMapKeyRef"), where)
    for index, source in enumerate(container.get("envFrom") or []):
        yield from _one("secrets", source.get("secretRef"), f"{at}.envFrom[{index}]")
        yield from _one("configmaps", source.get("configMapRef"), f"{at}.envFrom[{index}]")


def _of_volume(volume: Mapping[str, Any], at: str) -> Iterator[Reference]:
    yield from _one("secrets", volume.get("secret"), at, key="secretName")
    yield from _one("configmaps", volume.get("configMap"), at)
    yield from _one("persistentvolumeclaims", volume.get("persistentVolumeClaim"), at, key="claimName")
    for source in (volume.get("projected") or {}).get("sources") or []:
        yield from _one("secrets", source.get("secret"), at)
        yield from _one("configmaps", source.get("configMap"), at)


def _one(resource: str, source: Mapping[str, Any] | None, where: str, key: str = "name") -> Iterator[Reference]:
    if source and source.get(key):
        yield Reference(resource, source[key], where, needed=not source.get("optional"))
