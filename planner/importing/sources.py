"""The kinds of sources: how one is told by its content, and what converts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from flowplan.planner.importing import Around, Source, compose, crontab, jobs, prefect, slurm
from flowplan.schemas.documents import COMPOSE, KUBECTL, PYYAML, Document, parse_all
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import did_you_mean


class Yaml(NamedTuple):
    """A kind of source whose files are YAML.

    Attributes:
        is_one: tells it by a document; convert: makes runs of all documents of a file; dialect: how they are read.
    """

    is_one: Callable[[Json], bool]
    convert: Callable[[Sequence[Document], Around], Source]
    dialect: str = ""


class Lines(NamedTuple):
    """A kind of source whose files are lines of text; ``is_one`` tells it by all of them."""

    is_one: Callable[[str], bool]
    convert: Callable[[str, str, Around], Source]


YAML: dict[str, Yaml] = {
    "kubernetes": Yaml(jobs.is_manifest, jobs.imported, KUBECTL),
    "compose": Yaml(compose.is_compose, compose.imported, COMPOSE),
    "prefect": Yaml(prefect.is_prefect, prefect.imported, PYYAML),
}
LINES: dict[str, Lines] = {
    "slurm": Lines(slurm.is_batch_script, slurm.imported),
    "crontab": Lines(crontab.is_crontab, crontab.imported),
}
KINDS = (*YAML, *LINES)
LIVE: tuple[str, Callable[[Sequence[Json]], Source]] = ("kubernetes", jobs.of_cluster)
"""The type of provider whose objects can be imported from the engine, and what converts them."""


def imported(text: str, file: str, kind: str, around: Around) -> Source:
    """Return what a source has that runs.

    Args:
        kind: of the source; "" to tell it by its content.

    Raises:
        InvalidInput: every fault of the source; or it is of no kind that is known.
    """
    if kind and kind not in KINDS:
        hint = did_you_mean(kind, KINDS) or f"one of {', '.join(KINDS)}"
        raise InvalidInput(f'there is no kind of source "{kind}"', subject="--kind", hint=hint)
    of_lines = next((name for name, one in LINES.items() if kind == name or (not kind and one.is_one(text))), "")
    if of_lines:
        return LINES[of_lines].convert(text, file, around)
    failed: InvalidInput | None = None
    asked = [YAML[kind]] if kind else list(YAML.values())
    for dialect in dict.fromkeys(one.dialect for one in asked):
        try:
            documents = parse_all(text, file, dialect)
        except InvalidInput as error:
            failed = failed or error
            continue
        for one in asked:
            if one.dialect == dialect and (kind or one.is_one(documents[0].value)):
                return one.convert(documents, around)
    if failed is not None:
        hint = "a template of Helm is rendered first: helm template CHART | flowplan import -" if "{{" in text else ""
        raise InvalidInput([fault._replace(hint=hint or fault.hint) for fault in failed.diagnostics])
    hint = f"known are {', '.join(KINDS)}; --kind names one"
    raise InvalidInput([documents[0].sources.at_value((), "it is not known what this file is", hint)])
