"""What creating Jobs would trip over: permissions, things they refer to, and the server's own dry run (issue: preflight)."""

from __future__ import annotations

from collections.abc import Sequence

from flowplan.providers.kubernetes.requests import Api
from flowplan.providers.protocol import Order
from flowplan.schemas.plans import Finding


def check(api: Api, orders: Sequence[Order], namespace: str) -> list[Finding]:
    return []
