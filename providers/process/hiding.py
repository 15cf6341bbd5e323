"""Takes secrets out of the output of runs, for the supervisor."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flowplan.schemas.redaction import Matcher, Stream

MOST_KNOWN = 64

_known: dict[str, Matcher] = {}


def hiding(redact: dict[str, list[str]]) -> Stream | None:
    """Return what takes the secrets out of a run's output, None without any; runs with the same ones share the tables.

    What that takes is loaded when it is needed.
    """
    if not any(redact.values()):
        return None
    from flowplan.schemas.redaction import Matcher, Stream

    key = json.dumps(redact)
    if key not in _known:
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[key] = Matcher(**{kind: map(os.fsencode, forms) for kind, forms in redact.items()})
    return Stream(_known[key])
