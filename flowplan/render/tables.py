"""Status, events and the list of a state as lines of text, from the same documents that machines read."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice

from flowplan.render.signs import paint, to_the_second
from flowplan.render.units import duration
from flowplan.schemas.events import Event
from flowplan.schemas.lifecycle import RETRIED
from flowplan.schemas.plans import Action
from flowplan.schemas.runs import ENDS, PROBLEMS, Json, Recorded, Status, canonical
from flowplan.schemas.text import harmless, shortened
from flowplan.schemas.times import seconds_between

COLOUR_OF = {
    "succeeded": "green",
    "running": "cyan",
    "pending": "cyan",
    "creating": "cyan",
    "failed": "red",
    "timed_out": "red",
    "lost": "red",
    "cancelled": "yellow",
    "skipped": "yellow",
    "waiting": "dim",
    "destroyed": "dim",
}
_PLAIN = ("Completed", "exited cleanly")
"""What engines say of a plain success."""
_WORTHWHILE = 16
"""Columns in which a message can be read."""
Document = Mapping[str, Json]


def status_table(
    runs: Sequence[Document],
    not_started: Sequence[Document] = (),
    *,
    now: datetime | None = None,
    width: int | None = None,
    colour: bool = False,
) -> list[str]:
    """Return the status of runs, one a line: those with a problem last, and counted in a line below them.

    Args:
        runs, not_started: the lists of a status document; where both have an address, one line tells both.
        now: with it, runs that did not end show how long they have been running.
        width: columns of the terminal: messages are cut to it, and what is left out first where they have no room are
            the attempt and the start; addresses are never cut. Nothing is cut without it.
    """
    steps = {str(step["address"]): step for step in not_started}
    told = [_with_step(run, steps.pop(str(run.get("address")), None)) for run in runs]
    told = [*told, *steps.values()]
    if not told:
        return ["No runs."]
    ordered = sorted(told, key=lambda run: (run.get("status") in (*PROBLEMS, "skipped"), run.get("place", 0)))
    columns: Columns = {
        "ADDRESS": lambda run: _text(run, "address"),
        "STATUS": lambda run: _text(run, "status"),
        "EXIT": lambda run: _text(run, "exit_code"),
        "ATTEMPT": _attempts,
        "START (UTC)": lambda run: started(run, now),
        "DURATION": lambda run: took(run, now),
        "REASON": _why,
    }
    lines = _lines(ordered, columns, width, colour)
    return [*lines, *filter(None, [counted(told, also=("skipped", "waiting"))])]


def _with_step(run: Document, step: Document | None) -> Document:
    """Return a run as one line tells it: as its next attempt where that is to come, else with what is to be done to it."""
    if step is None:
        return run
    if run["status"] in ENDS and Action(step["action"]).starts:
        code = f" (exit code {run['exit_code']})" if run["exit_code"] else ""
        former = f"attempt {run['attempt']} {str(run['status']).replace('_', ' ')}{code}"
        return {**step, "reason": "; ".join(filter(None, (step["reason"], former)))}
    why = f"{step['action']} {step['status']}{' ' * bool(step['reason'])}{step['reason']}"
    return {**run, "reason": "; ".join(filter(None, (_why(run), why))), "message": "", "step": step["status"]}


def history_table(
    applies: Sequence[Document],
    attempts: Sequence[Document],
    *,
    now: datetime | None = None,
    width: int | None = None,
    colour: bool = False,
) -> list[str]:
    """Return a block for each apply, a line for each of its attempts, and a last line that counts those with a problem.

    Args:
        applies, attempts: of a history document.
    """
    if not applies:
        return ["No attempts."]
    columns: Columns = {
        "START (UTC)": lambda one: started({"started_at": one.get("started_at") or one.get("created_at")}, now),
        "ADDRESS": lambda one: _text(one, "address"),
        "ATTEMPT": lambda one: _attempts({**one, "attempts": one.get("tries")}) or _text(one, "attempt"),
        "END": lambda one: _text(one, "status"),
        "EXIT": lambda one: _text(one, "exit_code"),
        "DURATION": lambda one: took(one, now),
        "REASON": _why,
    }
    blocks: dict[Json, list[Document]] = {apply["plan"]: [] for apply in applies}
    for one in attempts:
        blocks[one["plan"]].append(one)
    head, *told = _lines([one for block in blocks.values() for one in block], columns, width, colour)
    lines, left = [head] if attempts else [], iter(told)
    for apply in applies:
        lines += [paint(_applied(apply), "bold", colour), *islice(left, len(blocks[apply["plan"]])), ""]
    bad = any(one.get("status") in PROBLEMS for one in attempts)
    return [*lines, counted(attempts, "attempt")] if bad else lines[:-1]


def _applied(apply: Document) -> str:
    """Return ``apply 2026-11-01 02:00:03 UTC by ada@host, plan c778cc671726: 29 succeeded, 1 failed``."""
    ends: dict[str, int] = {**apply["ends"]}
    ordered = sorted(ends, key=lambda status: (status in PROBLEMS, status))
    counts = [f"{ends[status]} {status.replace('_', ' ')}" for status in ordered]
    done = "removed" if apply["mode"] == "destroy" else "done without a new attempt"
    words = {"waiting": "waiting", "skipped": "skipped", "dropped": "never started", "done": done}
    counts += [f"{apply['steps'][phase]} {word}" for phase, word in words.items() if apply["steps"].get(phase)]
    who = f" by {apply['user']}@{apply['host']}" if apply["user"] else ""
    plan = f", plan {apply['plan'].removeprefix('sha256:')[:12]}" if apply["plan"] else ", no plan is known"
    for name, value in apply["variables"].items():
        plan += f", {name}={shortened(value if isinstance(value, str) else canonical(value), 40)}"
    at = to_the_second(apply["at"] or "at an unknown time").replace("T", " ").replace("Z", " UTC")
    return harmless(f"{apply['command'] or 'apply'} {at}{who}{plan}" + (f": {', '.join(counts)}" if counts else ""))


def counted(runs: Sequence[Document], noun: str = "run", also: Sequence[str] = ()) -> str:
    """Return how many of some runs have a problem, or stand ``also`` so: ``2 of 30 runs: 1 failed, 1 timed out``."""
    stand = [{run.get("status"), run.get("step")} for run in runs]
    counts = {status: sum(status in one for one in stand) for status in (*PROBLEMS, *also)}
    words = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items() if count)
    told = sum(not one.isdisjoint(counts) for one in stand)
    return f"{told} of {len(runs)} {noun}{'s' if len(runs) != 1 else ''}: {words}" if words else ""


Columns = dict[str, Callable[[Document], str]]
"""The columns of a table by their heads, each with what it says of a document."""


def _lines(documents: Sequence[Document], columns: Columns, width: int | None, colour: bool) -> list[str]:
    """Return a table of documents; what can be spared is left out where the last column would be too narrow to be read."""
    for spared in ("", "ATTEMPT", "START (UTC)"):
        columns = {head: said for head, said in columns.items() if head != spared}
        rows = [[said(one) for said in columns.values()] for one in documents]
        widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
        used = [max(w, _columns(head)) + 2 for head, w in zip(columns, widths, strict=False) if w]
        last = min(widths[-1], _WORTHWHILE) + 2 if widths and widths[-1] else 0
        if width is None or sum(used[: -1 if last else None]) + last - 2 <= width:
            break
    colours = [COLOUR_OF.get(str(one.get("status")), "") if colour else "" for one in documents]
    return table(list(columns), rows, width=width, colours=colours)


def _why(run: Document) -> str:
    """Return the reason and the message of a run; nothing of what its status says already."""
    status = run.get("status")
    plain = _PLAIN if status == "succeeded" else (str(status).capitalize(),)
    reason, message = ("" if told in plain else told for told in (_text(run, "reason"), _text(run, "message")))
    why = ": ".join(filter(None, (reason, "" if message == reason else message)))
    return "" if why in ("Error", f"Error: exit code {run.get('exit_code')}") and run.get("exit_code") else why


def started(run: Document, now: datetime | None = None) -> str:
    """Return the month, day and minute at which a run started, or the date in another year; "" where that is unknown."""
    time = _text(run, "started_at")
    return time[5:16].replace("T", " ") if now is None or time.startswith(f"{now.year}-") else time[:10]


def _text(document: Document, key: str) -> str:
    value = document.get(key)
    return "" if value is None else harmless(str(value))


def _attempts(run: Document) -> str:
    """Return ``2`` or, where the engine executed an attempt more than once, ``2 (3 tries)``; nothing of a plain first one."""
    tries, attempt = run.get("attempts") or 0, run.get("attempt") or 1
    return "" if attempt == 1 and tries < 2 else f"{attempt}" + (f" ({tries} tries)" if tries > 1 else "")


def took(run: Document, now: datetime | None = None) -> str:
    """Return how long a run took, or has been running; "" where that is unknown."""
    live = run.get("status") in ("creating", "pending", "running")
    seconds = seconds_between(run.get("started_at"), run.get("finished_at") or (now if live else None))
    return "" if seconds is None else duration(seconds)


def happened(event: Event, record: Recorded | None) -> str:
    """Return what an apply says of an event: ``extract: failed (exit code 3) after 12s: OOMKilled: ran out of memory``."""
    if event.reason == RETRIED:
        return f"{event.address}: {event.message}"
    text = f"{event.address}: {event.status.replace('_', ' ')}"
    code = None
    if record and record.run_id == event.run_id and event.status in ENDS:
        code = record.exit_code
        seconds = seconds_between(record.started_at, record.finished_at)
        text += f" (exit code {code})" if code and event.status == Status.FAILED else ""
        text += "" if seconds is None else " after <1s" if seconds < 1 else f" after {duration(seconds)}"
    why = _why({**event.document(), "exit_code": code})
    return text + (f": {why}" if why else "")


def event_line(event: Document, *, address_width: int = 0, colour: bool = False) -> str:
    """Return one event: time, address, status, reason and message."""
    status = _text(event, "status")
    attempt = f" (attempt {event['attempt']})" if (event.get("attempt") or 0) > 1 else ""
    words = _why(event).removeprefix(f"{RETRIED}: ")
    time = to_the_second(_text(event, "engine_at") or _text(event, "at"))
    shown = paint(status, COLOUR_OF[status], colour) if status in COLOUR_OF else status
    return f"{time}  {_padded(_text(event, 'address'), address_width)}  {shown}{attempt}{'  ' + words if words else ''}"


def event_lines(events: Iterable[Document], *, colour: bool = False) -> Iterator[str]:
    """Yield events as lines; addresses line up as far as they are known by then."""
    widest = 0
    for event in events:
        widest = max(widest, _columns(_text(event, "address")))
        yield event_line(event, address_width=min(widest, 40), colour=colour)


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None, colours: Sequence[str] = ()
) -> list[str]:
    """Return aligned columns; empty ones are left out. To fit a width only the last is cut, and not below what can be read.

    Args:
        colours: one for each row, "" for none.
    """
    used = [n for n in range(len(heads)) if any(row[n] for row in rows)] or [0]
    lines = [[heads[n] for n in used], *([harmless(row[n]) for n in used] for row in rows)]
    *widths, last = [max(_columns(line[n]) for line in lines) for n in range(len(used))]
    room = last if width is None or not widths else max(width - sum(widths) - 2 * len(widths), _WORTHWHILE)
    texts = ["  ".join([*map(_padded, line, widths), cut(line[-1], room)]).rstrip() for line in lines]
    painted = [paint(text, colour, bool(colour)) for text, colour in zip(texts[1:], colours, strict=False)]
    return [texts[0], *painted, *texts[1 + len(painted) :]]


def cut(text: str, width: int) -> str:
    """Return a text that is at most so many columns wide."""
    if _columns(text) <= width:
        return text
    while text and _columns(text) > width - 3:
        text = text[: max(0, min(len(text) - 1, width - 3))]
    return text + "..."


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _columns(text))


def _columns(text: str) -> int:
    """Count the columns that a terminal uses for ``text``: wide characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
