"""The tables in the database, their format, and what each role may do with them."""

from __future__ import annotations

from collections.abc import Mapping

from flowplan.schemas.errors import StateError
from flowplan.state.postgres.session import Session

_STATE = "current_setting('flowplan.state')::bigint"
"""The state that a transaction is about, see ``store``. Without one, every statement fails."""

_TABLES = {
    "attempts": """
  id bigint GENERATED ALWAYS AS IDENTITY, run_id text, address text NOT NULL, attempt integer NOT NULL,
  status text NOT NULL, present smallint NOT NULL, outcome text, progress text NOT NULL, applied text NOT NULL,
  PRIMARY KEY (state, run_id)""",
    "records": """
  id bigint GENERATED ALWAYS AS IDENTITY, address text, run_id text NOT NULL, PRIMARY KEY (state, address),
  UNIQUE (state, run_id)""",
    "tails": "run_id text, text text NOT NULL, PRIMARY KEY (state, run_id)",
    "counters": "address text, attempt integer NOT NULL, PRIMARY KEY (state, address)",
    "events": """
  seq bigint, at text NOT NULL, engine_at text, address text NOT NULL, run_id text NOT NULL, attempt integer NOT NULL,
  status text NOT NULL, reason text NOT NULL, message text NOT NULL, run text NOT NULL, PRIMARY KEY (state, seq)""",
    "plans": """
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, digest text NOT NULL, accepted text, left_at text, document text,
  UNIQUE (state, digest)""",
    "steps": """
  plan bigint NOT NULL REFERENCES flowplan.all_plans ON DELETE CASCADE, address text, place integer NOT NULL DEFAULT 0,
  phase text NOT NULL, why text NOT NULL DEFAULT '', until text, step text NOT NULL DEFAULT '{}',
  PRIMARY KEY (state, plan, address)""",
    "notes": "name text, document text NOT NULL, PRIMARY KEY (state, name)",
}
"""The tables of all states, as of format 1, without their first column ``state``. For each there is a view of its name
that has the rows of one state alone: what reads and writes runs knows the views, and cannot meet another state's rows."""


def _table(name: str, columns: str) -> str:
    return f"""
CREATE TABLE flowplan.all_{name} (
  state bigint NOT NULL DEFAULT {_STATE} REFERENCES flowplan.states ON DELETE CASCADE,
  {columns});
CREATE VIEW flowplan.{name} AS SELECT * FROM flowplan.all_{name} WHERE state = {_STATE} WITH CHECK OPTION"""


_FIRST = f"""
CREATE SCHEMA IF NOT EXISTS flowplan;
CREATE TABLE flowplan.format (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  version integer NOT NULL, least_reader integer NOT NULL, least_writer integer NOT NULL);
CREATE TABLE flowplan.states (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  project text NOT NULL, environment text NOT NULL DEFAULT '', lineage text NOT NULL,
  serial bigint NOT NULL DEFAULT 0, created_at text NOT NULL, moved_to text,
  last_write text, UNIQUE (project, environment));
CREATE VIEW flowplan.meta AS SELECT * FROM flowplan.states WHERE id = {_STATE};
CREATE TABLE flowplan.keys (
  state bigint PRIMARY KEY REFERENCES flowplan.states ON DELETE CASCADE, key bytea NOT NULL);
CREATE TABLE flowplan.leases (
  project text, environment text, purpose text, token bigint NOT NULL, until timestamptz NOT NULL, holder text NOT NULL,
  PRIMARY KEY (project, environment, purpose));
{";".join(_table(name, columns) for name, columns in _TABLES.items())};
CREATE INDEX attempts_address ON flowplan.all_attempts (state, address, id);
CREATE INDEX attempts_present ON flowplan.all_attempts (state, id) WHERE present = 1;
CREATE INDEX events_address ON flowplan.all_events (state, address, seq);
CREATE INDEX events_run ON flowplan.all_events (state, run, seq);
CREATE INDEX events_run_id ON flowplan.all_events (state, run_id, seq);
CREATE INDEX steps_open ON flowplan.all_steps (state, plan, place) WHERE phase IN ('waiting', 'skipped')"""

STEPS = ((_FIRST, 1, 1),)
"""For each format: the statements that make it of the former one, and the lowest format that a flowplan must know to read
and to write it. First a step adds what the next format needs; a later one removes what no flowplan uses any more."""

NEWEST = len(STEPS)
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(7379637)"
"""Held to the end of the transaction that makes or upgrades the tables."""


def version(session: Session) -> tuple[int, int, int]:
    """Return the format of the tables, and the formats that readers and writers must know; zeros where there are none."""
    [(there, allowed)] = session.ask(
        "SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('flowplan') AND relname = 'format'),"
        " coalesce(has_schema_privilege(to_regnamespace('flowplan')::oid, 'USAGE'), true)"
    )
    if not allowed:
        raise StateError(
            f"the state {session.address.shown()} cannot be used: this user has no right to flowplan's tables",
            hint="`flowplan state grants`, given by the owner of the database, prints what gives it",
        )
    if not there:
        return 0, 0, 0
    found = session.ask("SELECT version, least_reader, least_writer FROM flowplan.format")
    return (int(found[0][0]), int(found[0][1]), int(found[0][2])) if found else (0, 0, 0)


def known_to_write(found: tuple[int, int, int]) -> bool:
    """Return whether this flowplan knows enough to write tables of a format, see ``version``."""
    return found[2] <= NEWEST


def check(session: Session, found: tuple[int, int, int], *, writes: bool) -> None:
    """Refuse tables of a format that this flowplan cannot use.

    Raises:
        StateError: the message says which of the two has to be upgraded.
    """
    where, (now, reader, writer) = f"the state {session.address.shown()}", found
    needed, verb = (writer, "write") if writes else (reader, "read")
    if needed > NEWEST:
        raise StateError(
            f"{where} has format {now}, and to {verb} it a flowplan must know format {needed}; this one knows {NEWEST}",
            hint="upgrade flowplan",
        )
    if now < NEWEST:
        raise StateError(
            f"{where} has the older format {now}, this flowplan needs {NEWEST}",
            hint="`flowplan state upgrade`, given by the owner of the tables",
        )


def upgrade(session: Session) -> tuple[int, int]:
    """Bring the tables to the newest format, each step in a transaction of its own; return the format before and after.

    Raises:
        StateError: they are newer than this flowplan, or this user may not change them.
    """
    first = version(session)[0]
    if first > NEWEST:
        check(session, (first, first, first), writes=True)
    for number in range(first + 1, NEWEST + 1):
        statements, reader, writer = STEPS[number - 1]
        with session.transaction((_ONE_AT_A_TIME, ())):
            there = session.ask("SELECT to_regclass('flowplan.format') IS NOT NULL")[0][0]
            now = session.ask("SELECT version FROM flowplan.format")[0][0] if there else 0
            if now >= number:
                continue  # another one was faster
            for statement in statements.split(";"):
                session.queue(statement, [()])
            session.queue(
                "INSERT INTO flowplan.format (version, least_reader, least_writer) VALUES (%s, %s, %s) ON CONFLICT (one)"
                " DO UPDATE SET version = excluded.version, least_reader = excluded.least_reader,"
                " least_writer = excluded.least_writer",
                [(number, reader, writer)],
            )
    return first, NEWEST


# --- roles ----------------------------------------------------------------------------------------------------------

_VIEWS = ", ".join(f"flowplan.{name}" for name in _TABLES)
_SEEN = f"{_VIEWS}, flowplan.meta, flowplan.format, flowplan.states, flowplan.leases"
_ROLES: Mapping[str, tuple[str, ...]] = {
    "writer": (
        f"GRANT SELECT ON {_SEEN}, flowplan.keys TO {{role}};",
        f"GRANT INSERT, UPDATE, DELETE ON {_VIEWS} TO {{role}};",
        "GRANT INSERT, UPDATE ON flowplan.states, flowplan.keys, flowplan.leases TO {role};",
    ),
    "planner": (f"GRANT SELECT ON {_SEEN}, flowplan.keys TO {{role}};",),
    "reader": (f"GRANT SELECT ON {_SEEN} TO {{role}};",),
}


def grants(roles: Mapping[str, str]) -> list[str]:
    """Return the statements that give roles of the database what they need: name -> writer, planner or reader."""
    lines = []
    for name, kind in roles.items():
        role = '"' + name.replace('"', '""') + '"'
        lines += [f"GRANT USAGE ON SCHEMA flowplan TO {role};", *(line.format(role=role) for line in _ROLES[kind])]
    return lines
