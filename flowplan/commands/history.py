"""The command that shows every apply and every recorded attempt, from the state alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from flowplan import documents
from flowplan.commands.arguments import check_format
from flowplan.commands.reading import opened
from flowplan.output import Output
from flowplan.state.location import Location
from flowplan.terminal import use_colour, width

Document = dict[str, Any]


def history(state: Location, addresses: Sequence[str], since: datetime | None, failed: bool, format: str) -> None:
    """Print a block for each apply with a row for each attempt that it made, oldest first; no engine is asked.

    Args:
        since: only attempts that live, or of which something happened since then, and what was applied since then.
        failed: only attempts that failed, timed out or are lost.
    """
    from flowplan.render.tables import history_table

    check_format(format, ("text", "json"))
    with closing(opened(state)) as store:
        document = documents.history(store, addresses, since=since, failed=failed)
    output = Output()
    if format == "json":
        output.document(document)
        return
    columns, now = width(sys.stdout) if sys.stdout.isatty() else None, datetime.now(UTC)
    output.lines(
        history_table(document["applies"], document["attempts"], width=columns, colour=use_colour(sys.stdout), now=now)
    )
