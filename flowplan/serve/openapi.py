"""The OpenAPI document of what a follower answers; its schemas are those that the commands' documents have."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from flowplan import __version__

_DOCUMENTS = ("status", "plan", "event", "history", "report")
"""The published schemas, in ``schemas/NAME.schema.json``."""
_ADDRESS = {"name": "address", "in": "query", "description": "Only these runs: name, address or glob. Repeatable.",
            "schema": {"type": "array", "items": {"type": "string"}}}  # fmt: skip
_NUMBER = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}


@cache
def document() -> dict[str, Any]:
    """Return the document, OpenAPI 3.1."""
    text = {"text/plain": {"schema": {"type": "string"}}}
    events = {"type": "object", "required": ["events"], "properties": {"events": _list(_ref("event"))}}
    anything: dict[str, Any] = {"type": "object"}
    since = {
        "name": "since",
        "in": "query",
        "description": "Only attempts of this time: 24h, 90m.",
        "schema": {"type": "string"},
    }
    failed = {"name": "failed", "in": "query", "schema": {"type": "boolean", "default": False}}
    after = {"name": "after", "in": "query", "description": "Only events with higher numbers.", "schema": _NUMBER}
    limit = {"name": "limit", "in": "query", "schema": {**_NUMBER, "default": 1000}}
    last = {"name": "Last-Event-ID", "in": "header", "description": "As after; it has precedence.", "schema": _NUMBER}
    gets = {
        "/livez": ("Whether the follower's loop moves.", [], text, [503]),
        "/readyz": ("Whether the follower does its work, or stands by.", [], text, [503]),
        "/metrics": ("The numbers, for Prometheus.", [], text, []),
        "/api/v1/openapi.json": ("This document.", [], _json(anything), []),
        "/api/v1/report": ("Everything that the page shows; with ETag.", [], _json(_ref("report")), []),
        "/api/v1/status": ("Every run: `flowplan status --format json`.", [_ADDRESS], _json(_ref("status")), [400]),
        "/api/v1/plans": ("The accepted plans, newest first.", [], _json(anything), []),
        "/api/v1/plans/{digest}": ("An accepted plan.", [_in_path("digest")], _json(_ref("plan")), [404]),
        "/api/v1/runs/{address}": ("All attempts of a run.", [_in_path("address")], _json(anything), [404]),
        "/api/v1/history": ("`flowplan history --format json`.", [_ADDRESS, since, failed], _json(_ref("history")), [400]),
        "/api/v1/events": (
            "Events by number; with `Accept: text/event-stream` as they happen.",
            [after, limit, last],
            {**_json(events), "text/event-stream": {"schema": {"type": "string"}}},
            [400],
        ),
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "flowplan", "version": __version__, "description": "What a follower knows. Nothing is changed here."},
        "security": [{}, {"token": []}],
        "paths": {path: {"get": _operation(*parts)} for path, parts in gets.items()},
        "components": {
            "schemas": {name: _schema(name) for name in _DOCUMENTS},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }  # fmt: skip


def _operation(summary: str, parameters: list[Any], content: dict[str, Any], refusals: list[int]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"type": "object", "required": ["error"]}}, "text/plain": {}}
    codes = {401: "The token is missing or wrong.", 421: "The Host header is not a name of the follower.",
             503: "The state cannot be read."} | dict.fromkeys(refusals, "As the text says.")  # fmt: skip
    refused = {str(code): {"description": words, "content": error} for code, words in codes.items()}
    good = {"200": {"description": "As it is now.", "content": content}}
    return {"summary": summary, "parameters": parameters, "responses": good | refused}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _schema(name: str) -> dict[str, Any]:
    text = resources.files("flowplan.schemas").joinpath(f"{name}.schema.json").read_text()
    schema: dict[str, Any] = json.loads(text.replace('"#/$defs/', f'"#/components/schemas/{name}/$defs/'))
    return {key: value for key, value in schema.items() if key not in ("$schema", "$id")}
