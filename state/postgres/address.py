"""The URL of a state in a database: what libpq takes, and which project is meant; shown without anything secret."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

from flowplan.schemas.errors import InvalidInput, StateError

OWN = ("project", "environment")
"""Parameters of the URL that are flowplan's, and not libpq's."""
SECRET = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")

HINT = "write postgresql://USER@HOST:PORT/DATABASE, with %-escapes for special characters"


class Address(NamedTuple):
    """Which state, and how the server is reached.

    Attributes:
        given: libpq's parameters, as far as the URL has them. The rest is libpq's: its variables, service and password files.
        project, environment: "" where the URL does not say.
    """

    given: Mapping[str, str]
    project: str = ""
    environment: str = ""

    @property
    def secrets(self) -> list[str]:
        """Return what must not be shown."""
        return [self.given[name] for name in SECRET if self.given.get(name)]

    def shown(self, **own: str) -> str:
        """Return the URL without its secrets; ``own`` replaces project and environment."""
        given = {name: value for name, value in self.given.items() if name not in SECRET}
        hosts, ports = (given.pop(name, "").split(",") for name in ("host", "port"))
        ports = ports * len(hosts) if len(ports) == 1 else ports
        user, database = quote(given.pop("user", ""), safe=""), quote(given.pop("dbname", ""), safe="")
        places = ",".join(_place(host, port) for host, port in zip(hosts, ports, strict=False))
        named = {name: own.get(name, value) for name, value in zip(OWN, self[1:], strict=True)}
        query = urlencode(
            {**given, **{name: value for name, value in named.items() if value}}, quote_via=quote, safe="/:,"
        )
        return f"postgresql://{user}{'@' if user else ''}{places}/{database}{'?' if query else ''}{query}"


def _place(host: str, port: str) -> str:
    name = f"[{host}]" if ":" in host else quote(host, safe="")
    return f"{name}:{port}" if port else name


def psycopg() -> Any:
    """Return the module, which is imported only where there is a database.

    Raises:
        StateError: it is not installed.
    """
    try:
        import psycopg

        logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # what it warns of is told by the error that follows
    except ImportError as error:
        raise StateError(
            f"a state in PostgreSQL needs psycopg, which cannot be imported ({error})",
            hint="pip install 'flowplan[postgres]'",
        ) from None
    return psycopg


def read(url: str) -> Address:
    """Return what a URL says.

    Raises:
        InvalidInput: it is none that libpq takes. Nothing of the URL is repeated, for a part of a password may be anywhere.
        StateError: psycopg is not installed.
    """
    errors = psycopg().Error
    from psycopg.conninfo import conninfo_to_dict

    base, _, query = url.partition("?")
    authority, _, path = base.partition("//")[2].partition("/")
    words = parse_qsl(query, keep_blank_values=True)
    own = {name: value for name, value in words if name in OWN}
    rest = urlencode([(name, value) for name, value in words if name not in OWN], quote_via=quote)
    try:
        found = conninfo_to_dict(f"{base}?{rest}" if rest else base)
    except errors as error:
        what = str(error).partition(":")[0].strip() if "parameter" in str(error) else ""
        raise InvalidInput(
            f"the URL of the state is none that PostgreSQL's library takes{f': {what}' if what else ''}", hint=HINT
        ) from None
    ports = [port for port in str(found.get("port") or "").split(",") if port]
    if "@" in path or authority.count("@") > 1 or not all(port.isdigit() for port in ports):
        # A password with an "@" or "/" as it is: what comes after would be shown as a host or a database.
        raise InvalidInput("the URL of the state has no host and port where they have to be", hint=HINT)
    return Address(
        {name: str(value) for name, value in found.items()}, own.get("project", ""), own.get("environment", "")
    )
