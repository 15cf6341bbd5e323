"""The kinds of sources: how one is told by its content, and what converts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from flowplan.planner.importing import Source, jobs
from flowplan.schemas.documents import Document, parse_all
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import Diagnostic, did_you_mean


class Kind(NamedTuple):
    """A kind of source whose files are YAML.

    Attributes:
        is_one: tells it by a document; convert: makes runs of all documents of a file; as_kubectl: how they are read.
    """

    is_one: Callable[[Json], bool]
    convert: Callable[[Sequence[Document]], Source]
    as_kubectl: bool = False


KINDS: dict[str, Kind] = {
    "kubernetes": Kind(jobs.is_manifest, jobs.imported, as_kubectl=True),
}
LIVE: tuple[str, Callable[[Sequence[Json]], Source]] = ("kubernetes", jobs.of_cluster)
"""The type of provider whose objects can be imported from the engine, and what converts them."""


def imported(text: str, file: str, kind: str) -> Source:
    """Return what a source has that runs.

    Args:
        kind: of the source; "" to tell it by its content.

    Raises:
        InvalidInput: every fault of the source; or it is of no kind that is known.
    """
    if kind and kind not in KINDS:
        hint = did_you_mean(kind, KINDS) or f"one of {', '.join(KINDS)}"
        raise InvalidInput([Diagnostic(f'there is no kind of source "{kind}"', subject="--kind", hint=hint)])
    try:
        documents = parse_all(text, file, as_kubectl=True)
    except InvalidInput as error:
        if "{{" in text:
            hint = "a template of Helm is rendered first: helm template CHART | flowplan import -"
            raise InvalidInput([fault._replace(hint=hint) for fault in error.diagnostics]) from None
        raise
    told = kind or next((name for name, one in KINDS.items() if one.is_one(documents[0].value)), "")
    if not told:
        hint = f"known are {', '.join(KINDS)}; --kind names one"
        raise InvalidInput([documents[0].sources.at_value((), "it is not known what this file is", hint)])
    found = KINDS[told]
    return found.convert(documents if found.as_kubectl else parse_all(text, file))
