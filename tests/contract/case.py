"""What the contract suite must know of a provider: how to connect, what to render, and how its engine differs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowplan.planner.manifests import Manifests, ResolvedRun
from flowplan.providers.protocol import Order, Provider
from flowplan.schemas.runs import Identity, Observed, Recorded, Settings, Status
from flowplan.schemas.secrets import SecretSource, token

KEY = b"contract-suite"
"""Key of the fingerprints in the tokens of this suite."""


def _nothing() -> None:
    pass


@dataclass
class Case:
    """One provider with its engine, ready for the suite.

    Attributes:
        type: the provider type (``docker``).
        manifests: its pure half, a module with the functions of ``Manifests``.
        connect: a new connection; its Context must carry the ``lineage`` that this case has at that moment.
        fields: fields merged under those of every run (``{"image": "..."}``).
        connection: the provider entry that rendering sees.
        vanish: remove the object (for ``process``: kill what watches over it) as a person would.
        cleanup: remove everything this case's lineage left on the engine.
        kill: send SIGKILL to the run from outside; None where nobody can (its test is left out).
        patience: seconds within which any expected change must be seen.
        killed: exit codes that a run ended by SIGKILL may show (-9 for a process, 137 for a container).
        killed_reasons: reasons that such a run may show.
        start_fails_in_create: True when a missing executable makes ``create`` raise StartFailed (an engine that starts
            later shows a failed status instead).
        splits_streams: True when ``logs`` tells stdout from stderr.
    """

    type: str
    manifests: Manifests
    connect: Callable[[], Provider]
    vanish: Callable[[Recorded], None]
    fields: Mapping[str, Any] = field(default_factory=dict)
    connection: Mapping[str, Any] = field(default_factory=dict)
    cleanup: Callable[[], None] = _nothing
    kill: Callable[[Recorded], None] | None = None
    lineage: str = field(default_factory=lambda: str(uuid.uuid4()))
    spec_dir: str = "/"
    patience: float = 15.0
    killed: frozenset[int] = frozenset({137})
    killed_reasons: frozenset[str] = frozenset()
    start_fails_in_create: bool = True
    splits_streams: bool = True

    def identity(self, address: str, attempt: int = 1) -> Identity:
        return Identity("contract", self.lineage, address, attempt)

    def order(
        self,
        address: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str | None] | None = None,
        secrets: Mapping[str, str] | None = None,
        attempt: int = 1,
        **fields: Any,
    ) -> Order:
        """Return the order for a run.

        ``command`` is its argv, ``secrets`` are variables with secret values, ``fields`` any other fields of
        the spec in their resolved form (durations in seconds: ``timeout=1.5``, ``grace_period=0.2``).
        """
        tokens = {name: token(SecretSource("from_env", name), KEY, value) for name, value in (secrets or {}).items()}
        everything = {
            **self.fields,
            "entrypoint": [command[0]],
            "command": list(command[1:]),
            "env": {**(env or {}), **tokens},
            **fields,
        }
        run = ResolvedRun(address, address, 0, self.type, self.type, everything, self.connection, self.spec_dir)
        faults = self.manifests.check(run)
        assert not faults, faults
        identity = self.identity(address, attempt)
        rendered = self.manifests.render(run, identity)
        settings = Settings(
            group=address, timeout=fields.get("timeout"), grace_period=fields.get("grace_period", Settings.grace_period)
        )
        values = {tokens[name]: value for name, value in (secrets or {}).items()}
        return Order(identity, rendered.name, rendered.objects, settings, values)

    def record_of(self, provider: Provider, order: Order, seen: Observed | None = None) -> Recorded:
        """Return the record that the state would hold after ``create`` answered ``seen`` (None: it never answered)."""
        return Recorded(
            address=order.identity.address,
            provider=self.type,
            type=self.type,
            target=provider.target().document(),
            attempt=order.identity.attempt,
            run_id=order.identity.run_id,
            name=(seen.name if seen else "") or order.name,
            objects=order.objects,
            settings=order.settings,
            status=(seen.status if seen else None) or Status.CREATING,
            attempts=seen.attempts if seen else 0,
            handle=dict(seen.handle) if seen else {},
            infrastructure_id=seen.infrastructure_id if seen else "",
        )
