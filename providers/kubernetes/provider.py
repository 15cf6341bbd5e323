"""The Kubernetes provider: the promises of ``providers.protocol`` kept by one API server."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from flowplan.providers import polling
from flowplan.providers.kubernetes import comparing, discovery, jobs, observing
from flowplan.providers.kubernetes.connection import IN_CLUSTER
from flowplan.providers.kubernetes.reading import LINEAGE, label, observed
from flowplan.providers.kubernetes.requests import Api
from flowplan.providers.protocol import Context, Found, LogLine, News, Order
from flowplan.schemas import arguments
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.plans import FieldChange, Finding
from flowplan.schemas.runs import Json, Objects, Observed, Recorded, Target

if TYPE_CHECKING:
    from flowplan.providers.kubernetes.watching import Heard


class KubernetesProvider:
    """Runs as batch/v1 Jobs. Raises as the protocol says: ProviderError, StartFailed, EngineUnreachable."""

    def __init__(self, api: Api, context: Context) -> None:
        self._api = api
        self._lineage, self._environment = context.lineage, context.environment
        self._namespace = api.endpoint.namespace
        self._target: Target | None = None
        self._heard: dict[str, Heard] = {}
        self._created_from = context.created_from

    def target(self) -> Target:
        """Return the cluster, known by the UID of ``kube-system``, the user's ``cluster_id``, or a hash of server and CA."""
        if self._target is None:
            place = self._api.endpoint
            context = place.label if place.label == IN_CLUSTER else f"context {place.label}"
            label = f"{context}, namespace {place.namespace} ({place.server})"
            cluster = place.cluster_id
            if not cluster:
                try:
                    cluster = str(self._api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"])
                except ProviderError as error:
                    if error.reason != "Forbidden":
                        raise
                    cluster = place.fallback_id
            self._target = Target("kubernetes", cluster, label)
        return self._target

    def now(self) -> datetime | None:
        """Return the time by the API server's clock; None before it has answered."""
        return self._api.clock.now()

    def keeps_timeout(self, record: Recorded) -> bool:
        """Return True: the Job has the time limit in ``activeDeadlineSeconds``."""
        return True

    def observe(self, records: Sequence[Recorded], wanted: Iterable[Objects] | None = None) -> list[Observed]:
        cluster = self.target().id
        return observing.observe(self._api, records, self._lineage, self._namespace, cluster, wanted, self._environment)

    def find(self, project: str, wanted: Sequence[Objects] = ()) -> list[Found]:
        """Return the Jobs with the project's label, in all namespaces or, where that is forbidden, in those of ``wanted``."""
        cluster = self.target().id
        return discovery.of_project(self._api, project, wanted, self._namespace, cluster, self._environment)

    def describe(self, object_id: str) -> Found:
        """Return a Job given as ``namespace/name``, or by its name alone in the provider's namespace.

        Raises:
            ProviderError: there is none.
        """
        return discovery.job(self._api, object_id, self._namespace, self.target().id)

    def catalogue(self, selector: str) -> list[Json]:
        """Return the Jobs and CronJobs of the provider's namespace that a label selector matches."""
        return discovery.listed(self._api, selector, self._namespace)

    def preflight(self, orders: Sequence[Order]) -> list[Finding]:
        from flowplan.providers.kubernetes import preflight

        return preflight.check(self._api, orders, self._namespace)

    def create(self, order: Order) -> Observed:
        job = jobs.create(self._api, order, self._namespace, self._created_from)
        seen = comparing.noted(self._seen(job), order.objects["Job"], job)
        for place, size in arguments.too_long(order.objects, order.secrets):
            return replace(seen, handle={**seen.handle, comparing.TOO_LONG: arguments.explanation(place, size)})
        return seen

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Observed:
        job = jobs.update(self._api, record, order, fields, self._namespace)
        seen = comparing.as_recorded(self._seen(job), record)
        return comparing.noted(seen, order.objects["Job"], job, fields)

    def _seen(self, job: Json) -> Observed:
        pods = jobs.pods_of(self._api, job) if (job.get("status") or {}).get("startTime") else []
        return observed(job, pods, self.target().id)

    def delete(self, record: Recorded, grace: float) -> None:
        jobs.delete(self._api, record, grace, self._namespace, self._lineage)

    def watch(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[News]:
        return polling.watch(records, stop, self._stream, self.observe)

    def _stream(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[News]:
        from flowplan.providers.kubernetes import watching

        cluster = self.target().id
        return watching.watch(self._api, records, self._lineage, self._namespace, cluster, stop, self._heard)

    def logs(
        self, record: Recorded, *, follow: bool, tail: int | None, stop: threading.Event | None = None
    ) -> Iterator[LogLine]:
        namespace = observing.namespace_of(record, self._namespace)
        from flowplan.providers.kubernetes import logs

        stop, heard = stop or threading.Event(), self._heard
        return logs.lines(self._api, record, namespace, follow=follow, tail=tail, stop=stop, heard=heard)

    def logs_of(
        self, record: Recorded, container: str, *, follow: bool, tail: int | None, stop: threading.Event | None = None
    ) -> Iterator[LogLine]:
        """Yield the output of a sidecar, an init container, or the main container."""
        namespace, stop = observing.namespace_of(record, self._namespace), stop or threading.Event()
        from flowplan.providers.kubernetes import logs

        return logs.lines(self._api, record, namespace, follow=follow, tail=tail, stop=stop, container=container)

    def progress(self, record: Recorded, stop: threading.Event) -> Iterator[LogLine]:
        """Yield what the pods of a run write, as they write it: needs the right to attach to them."""
        from flowplan.providers.kubernetes import attaching

        return attaching.pieces(self._api, record, observing.namespace_of(record, self._namespace), stop)

    def secret_values(self, record: Recorded) -> list[str]:
        secret = record.objects.get("Secret")
        if not secret:
            return []
        namespace = observing.namespace_of(record, self._namespace)
        there = jobs.find_secret(self._api, secret, namespace, record.run_id)
        if there is None or label(there, LINEAGE) != self._lineage:
            return []
        return [base64.b64decode(value).decode("utf-8", "replace") for value in (there.get("data") or {}).values()]

    def close(self) -> None:
        self._api.close()
