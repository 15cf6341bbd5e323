"""What ``flowplan report`` puts into its page, and a follower serves at ``/api/v1/report``: one document for all views.

It is built from the state alone, and from a plan. It is written for 10,000 runs with 50,000 attempts:

* A table (``Runs``, ``Attempts``, ``Events``, ``NotStarted``) is an object of columns. All columns of a table have the same
  length; what stands at place ``i`` of each is row ``i``. Rows name rows of other tables by their place.
* A text that many rows share is a place in ``strings``; ``strings[0]`` is "". These columns say *text* in their description.
* A time in a table is in milliseconds after ``epoch``, or null. ``epoch`` and ``made_at`` are RFC 3339 in UTC. ``made_at`` is the
  "now" of the document: what lives has lived until then.
* Nothing is HTML. Names, messages, plans and outputs come from users and engines, and hold whatever they like, also ``</script>``,
  control characters, escape sequences and text that runs backwards. Secrets are redacted, as they are in the state.

What each view needs:

*plan*: ``plan``, which is told in the words of ``flowplan show``. ``PlanView.groups`` are in their order: what hurts first.

*now*: ``runs`` in the order of the spec. ``runs.status`` is that of the newest attempt, else ``waiting`` or ``skipped`` for a step of an
accepted plan, or ``planned`` for a run of a plan that is not applied yet. A run whose newest attempt has ended may wait to start
again: it has a row in ``not_started`` as well. Rows with ``managed`` 0 are history: they were destroyed, forgotten or renamed.

*timeline*: ``attempts``. An attempt waited from ``applies[apply].at`` to ``created``, was pending from ``created`` to ``started``, and ran
from ``started`` to ``finished``, or until ``made_at``.

*graph*: ``groups``, the runs as the spec names them, each once however many cells it has.

*run*: rows of ``attempts`` and ``events`` with its place in ``runs``; ``outputs`` by row of ``attempts``. The objects of an attempt are
``objects.bases[base]`` with the leaves at some JSON Pointers replaced, see ``Objects``. Two attempts differ where their leaves differ.

*history*: ``applies``, ``attempts`` and ``slow``.

``left_out`` says in sentences what the budget or ``--logs`` kept out; show it on the page. ``last_seq`` is the number of the newest event
in the document: the stream of events goes on after it, so that a document may be some seconds old and nothing is missed.
Minor versions only add members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from flowplan.schemas.codec import Member

FORMAT_VERSION = "1.0"
SCHEMA_FILE = Path(__file__).with_name("report.schema.json")
Row = int
"""A place in a table."""
Text = int
"""A place in ``strings``."""
Milliseconds = int | None
"""After ``epoch``."""
PlanSource = Literal["pending", "applied", "file"]


class _Described:
    """What is below a member describes it in the JSON Schema."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {"use_attribute_docstrings": True}


@dataclass(frozen=True, slots=True)
class Runs(_Described):
    """Every address that is managed, waits, is planned, or has attempts; in the order of the spec, what is not managed last."""

    address: tuple[str, ...]
    group: tuple[Row, ...]
    """Row of ``groups``."""
    provider: tuple[Text, ...]
    """Text: the provider entry of the spec; "" where it is not known."""
    status: tuple[Text, ...]
    """Text: creating, pending, running, succeeded, failed, timed_out, cancelled, lost, destroyed, waiting, skipped or planned."""
    managed: tuple[int, ...]
    """1, or 0 for what was destroyed, forgotten or renamed, and is history."""
    attempt: tuple[Row | None, ...]
    """Row of ``attempts`` of the newest attempt; null where there is none, or it is left out."""
    needs: tuple[int, ...]
    """Place in ``needs`` of the rows of ``runs`` that it needs."""
    run_id: tuple[str, ...]
    """Of the newest attempt, as the following two; "" where there is none."""
    infrastructure_id: tuple[str, ...]
    image: tuple[Text, ...]
    """Text: digest or id of the image that ran, as the engine says it."""
    target: tuple[Text, ...]
    """Text: the engine, as people read it: a host, an endpoint, a context."""
    labels: tuple[int, ...]
    """Place in ``labels``."""


@dataclass(frozen=True, slots=True)
class Attempts(_Described):
    """Every attempt that is recorded, oldest first."""

    run: tuple[Row, ...]
    """Row of ``runs``."""
    number: tuple[int, ...]
    """1, 2, 3 ...: counts the creations at the address."""
    status: tuple[Text, ...]
    """Text: how it ended, else its status; destroyed when it had not ended before."""
    reason: tuple[Text, ...]
    """Text: the engine's word."""
    message: tuple[Text, ...]
    """Text."""
    exit_code: tuple[int | None, ...]
    """null when it is not known."""
    tries: tuple[int, ...]
    """Executions that the engine counted within the attempt: 3 after two retries."""
    apply: tuple[Row | None, ...]
    """Row of ``applies`` that made it; null where that is not known."""
    created: tuple[Milliseconds, ...]
    started: tuple[Milliseconds, ...]
    finished: tuple[Milliseconds, ...]
    name: tuple[Text, ...]
    """Text: the object's name on the engine."""
    objects: tuple[Row | None, ...]
    """Place in ``objects.rows``; null where they are left out."""


@dataclass(frozen=True, slots=True)
class Events(_Described):
    """Transitions and retries, oldest first."""

    seq: tuple[int, ...]
    at: tuple[Milliseconds, ...]
    run: tuple[Row, ...]
    """Row of ``runs``."""
    number: tuple[int, ...]
    """Of the attempt."""
    status: tuple[Text, ...]
    """Text."""
    reason: tuple[Text, ...]
    """Text."""
    message: tuple[Text, ...]
    """Text."""


@dataclass(frozen=True, slots=True)
class NotStarted(_Described):
    """Steps of accepted plans that have not begun."""

    run: tuple[Row, ...]
    """Row of ``runs``."""
    status: tuple[Text, ...]
    """Text: waiting, or skipped when it can never begin."""
    reason: tuple[Text, ...]
    """Text: what it waits for (``for extract``), or why it was skipped (``extract failed (exit code 3)``); "" when nothing is in its way."""
    waits_for: tuple[tuple[Row, ...], ...]
    """Rows of ``runs`` whose end it waits for."""
    until: tuple[Milliseconds, ...]
    """The time that it waits for."""
    action: tuple[Text, ...]
    """Text: create, replace, rerun, update, destroy, adopt, forget, or no-op where it is only renamed."""
    number: tuple[int, ...]
    """Of the attempt that it will be."""
    apply: tuple[Row | None, ...]
    """Row of ``applies``."""


@dataclass(frozen=True, slots=True)
class Group(_Described):
    """A run as the spec names it, with all its cells; only what is managed, waits or is planned counts here."""

    name: str
    needs: tuple[Row, ...]
    """Rows of ``groups`` that its cells need; a circle is possible only where cells of an older spec are left."""
    states: Mapping[str, int]
    """How many of its cells stand how, by ``runs.status``, where there are any."""
    matrix: bool
    """Whether it has cells, be it one."""
    problem: bool
    """Whether a cell of it failed, timed out or is lost."""
    upstream: tuple[Row, ...]
    """The nearest rows of ``groups`` with a problem that it needs, directly or through others; five at most."""
    max_parallel: int | None
    description: str


@dataclass(frozen=True, slots=True)
class Apply(_Described):
    """What was applied, as ``flowplan history`` tells it; oldest first."""

    plan: str
    """Digest of the plan; "" for attempts that no known plan made."""
    mode: str
    """normal, destroy or refresh_only; "" when the plan is not kept any more."""
    at: Milliseconds
    command: str | None
    user: str | None
    host: str | None
    variables: Mapping[str, Any]
    """The values that were given, by name; sensitive ones are left out."""
    left_at: Milliseconds
    """When the command went away while some steps had not begun."""
    ends: Mapping[str, int]
    """How many of its attempts ended how, or their status."""
    steps: Mapping[str, int]
    """Of the steps without an attempt, how many are waiting, skipped, dropped or done."""


@dataclass(frozen=True, slots=True)
class Objects(_Described):
    """The objects of attempts, without flowplan's own labels; equal ones share a row."""

    bases: tuple[Any, ...]
    """Whole objects, by kind: ``{"Job": {...}}``."""
    rows: tuple[tuple[Any, ...], ...]
    """``[base, pointer, value, pointer, value, ...]``: a place in ``bases``, then pairs of a text, which is the JSON Pointer of a leaf that is
    there in the base too, and the value that it has here."""


@dataclass(frozen=True, slots=True)
class Output(_Described):
    """The end of what an attempt wrote, at most 64 KiB: both streams in their order, with escape sequences as written."""

    attempt: Row
    """Row of ``attempts``."""
    text: str
    cut: int
    """Characters of what is stored that are left out before it."""


@dataclass(frozen=True, slots=True)
class Overdue(_Described):
    """A live run that has passed a limit which nothing enforces at present."""

    run: Row
    """Row of ``runs``."""
    setting: str
    """timeout or start_timeout."""
    limit: float
    """Seconds, as the following."""
    passed_by: float


@dataclass(frozen=True, slots=True)
class Field(_Described):
    """A changed field as people read it."""

    name: str
    """``containers[main].image``."""
    before: str | None
    """The old value on one line; null where there was none, or ``lines`` say it."""
    after: str | None
    """The new value on one line; null where there is none any more, or ``lines`` say it."""
    lines: tuple[tuple[str, str], ...]
    """Pairs of a mark (+, -, ~ or a space) and a line, where the value is long; ``[-old-]`` and ``{+new+}`` mark words in a ~ line."""
    effect: Literal["in_place", "replace"]
    rule: str
    """The engine's rule that makes it so."""
    origin: str
    """Where the wanted value was written: ``flowplan.yaml:12``."""
    drift: bool
    """It was changed on the engine, not in the spec."""
    words: str
    """Effect, rule, origin and drift in a sentence, as the terminal shows them."""


@dataclass(frozen=True, slots=True)
class Remark(_Described):
    """A problem found beforehand, or a warning."""

    severity: str
    """error: apply would fail. warning or info."""
    text: str
    addresses: tuple[str, ...]
    """Empty where it is about the whole plan."""


@dataclass(frozen=True, slots=True)
class Explained(_Described):
    """A leaf of the wanted objects and where it was written (``--explain``)."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class PlanGroup(_Described):
    """Runs with the same change; values in which they differ are all in ``values``."""

    action: str
    """create, update, replace, rerun, destroy, adopt, forget, or no-op for what is only moved."""
    sign: str
    """+, ~, -/+, >, -, &, . or =; ! where a rule leaves the change out."""
    word: str
    """The action in words: ``update in place``, ``left out: would replace``."""
    interrupts: bool
    """It ends, pauses or shrinks something that runs now."""
    skipped: str
    """Not "" where a rule (protect) leaves the change out, in words."""
    provider: str
    why: str
    """The reasons in one sentence."""
    live: str
    """What it does to a live attempt: ``stops the live attempt, then starts anew``; "" for nothing."""
    facts: tuple[str, ...]
    """Further sentences: what they start after, how the last attempts ended."""
    remarks: tuple[Remark, ...]
    addresses: tuple[str, ...]
    moved_from: tuple[str, ...]
    """As long as ``addresses``, or empty where nothing was moved."""
    standing: tuple[str, ...]
    """As ``addresses``: ``running since 2026-11-01T08:00:00Z``, "" where there is none."""
    varying: tuple[str, ...]
    """Names of the places in which the runs differ."""
    values: tuple[tuple[str, ...], ...]
    """For each of ``varying`` its values, in the order of ``addresses``."""
    fields: tuple[Field, ...]
    """Of the first run."""
    settings: str
    """What flowplan keeps of a new run: ``Run: {timeout: 10s, grace_period: 30s}``; "" where nothing starts."""
    objects: tuple[tuple[str, str], ...]
    """The whole objects of the first run: pairs of a mark (+, - or a space) and a line of YAML; empty where they are left out."""
    explained: tuple[Explained, ...]
    """Where each leaf of the wanted objects of the first run was written; empty where that is left out."""


@dataclass(frozen=True, slots=True)
class PlanView(_Described):
    """A plan, in the words of ``flowplan show``."""

    source: PlanSource
    """The last plan, which is not applied yet; else the one that was applied last; or the file that the command line named."""
    project: str
    environment: str
    digest: str
    mode: str
    """normal, destroy or refresh_only."""
    made_at: str
    """RFC 3339 in UTC; "" where it is not known."""
    spec: str
    """Path of the spec."""
    verdict: str
    """The plan in one sentence."""
    summary: Mapping[str, int]
    """How many changes of each action there are (create, update, replace, rerun, destroy, adopt, forget, no_op)."""
    dangers: tuple[Remark, ...]
    """What is done to live runs, said before all else."""
    remarks: tuple[Remark, ...]
    """About the plan as a whole; also that it is not known to be genuine."""
    engines: tuple[str, ...]
    """``docker: unix:///var/run/docker.sock (host)``."""
    groups: tuple[PlanGroup, ...]
    unchanged: str
    """``12 unchanged: 10 succeeded, 2 running``, or ""."""
    unchanged_addresses: tuple[str, ...]
    command: str
    """The command that applies it; "" where it is applied already, or cannot be."""


@dataclass(frozen=True, slots=True)
class Report(_Described):
    """How a project stands: its runs, their attempts, what happened, and the plan."""

    format_version: str
    """major.minor; minor versions only add keys, so ignore keys you do not know and refuse another major."""
    flowplan_version: str
    project: str | None
    """null while the state belongs to none."""
    made_at: str
    """RFC 3339 in UTC."""
    serial: int | None
    """Of the state; null where there is none: the report of a plan file, which knows no attempts and no events."""
    last_seq: int
    """Number of the newest event."""
    follower: str
    """Who carries accepted plans on without a terminal: ``USER on HOST (pid N)``; "" for nobody."""
    epoch: str
    """RFC 3339 in UTC: the times of the tables count from here."""
    strings: tuple[str, ...]
    groups: tuple[Group, ...]
    needs: tuple[tuple[Row, ...], ...]
    """Lists of rows of ``runs``; ``needs[0]`` is empty."""
    labels: tuple[Mapping[str, Any], ...]
    """Labels that users gave to runs; ``labels[0]`` is empty."""
    runs: Runs
    attempts: Attempts
    applies: tuple[Apply, ...]
    not_started: NotStarted
    overdue: tuple[Overdue, ...]
    slow: tuple[Row, ...]
    """Rows of ``attempts`` that took, or have taken by now, more than half as long again as is usual: the median of up to ten that succeeded
    before at the address, of which there must be three; and a second more at least."""
    events: Events
    objects: Objects
    outputs: tuple[Output, ...]
    """By row of ``attempts``."""
    left_out: tuple[str, ...]
    """What is not in the document, in sentences."""
    plan: PlanView | None
    environment: Annotated[str, Member(absent="")] = ""
    """Only in a project with environments."""


def schema_text() -> str:
    """Return the text of ``report.schema.json``."""
    import json

    from pydantic import TypeAdapter

    found = TypeAdapter(Report).json_schema()
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://flowplan.dev/schemas/report-1.json",
        "title": "flowplan report 1.x",
    }
    return json.dumps(head | {key: value for key, value in found.items() if key != "title"}, indent=2) + "\n"
