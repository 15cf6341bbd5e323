"""What an API server's refusal means for the user: its own words in one line, and the hint that fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flowplan.providers.kubernetes.connection import Endpoint
from flowplan.schemas.errors import ProviderError


def refusal(code: int, body: bytes, endpoint: Endpoint, method: str) -> ProviderError:
    """Return the error for an answer of 400 or more."""
    status = _status(body)
    reason = str(status.get("reason") or _REASONS.get(code, f"HTTP {code}"))
    message = " ".join(str(status.get("message") or _REASONS.get(code) or f"HTTP {code}").split())
    if status.get("reason") == "Invalid":  # a 422 names every field
        causes = (status.get("details") or {}).get("causes") or []
        lines = [f"{c['field']}: {' '.join(str(c.get('message', '')).split())}" for c in causes if c.get("field")]
        message = "; ".join(dict.fromkeys(lines)) or message
    return ProviderError(message, hint=_hint(code, status, message, endpoint, method), reason=reason)


_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


def _status(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        text = body.decode("utf-8", "replace").strip()
        return {"message": text[:500]} if text else {}
    return parsed if isinstance(parsed, dict) else {}


def is_quota(message: str) -> bool:
    """Return whether a 403 is an exceeded quota, for which the server has no code of its own."""
    return "exceeded quota" in message or "failed quota" in message


def _hint(code: int, status: Mapping[str, Any], message: str, endpoint: Endpoint, method: str) -> str:
    if code == 401:
        return f"the credentials of context {endpoint.label} are wrong or expired; log in to {endpoint.server} again"
    if code == 403 and is_quota(message):
        return "ask for a larger ResourceQuota, or let other runs end first (max_parallel)"
    rule = ("is forbidden: " in message and " cannot " not in message) or "denied the request" in message
    if code == 403 and rule:  # of a user, the server says "is forbidden: User ... cannot ..."
        return "a limit, policy or webhook of the cluster refuses it: change the run, or ask who set it"
    if code == 403:
        return "the user or service account of this context needs a Role with this verb"
    if code == 404 and (status.get("details") or {}).get("kind") == "namespaces":
        name = (status.get("details") or {}).get("name")
        return f"create it first (kubectl create namespace {name}), or set another namespace"
    if code == 429:
        return "the API server is overloaded; try again"
    return ""
