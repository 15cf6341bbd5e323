"""The command that makes a spec of what other tools run, and proves that it runs the same."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from flowplan.commands.arguments import check_directory, check_format
from flowplan.commands.starting import project_name
from flowplan.engines import Engines, ManifestsByType, composed
from flowplan.given import Given
from flowplan.output import Output
from flowplan.planner.importing import VARIABLE, Around, Imported, Remark, Source, settled, spec_of, unequal
from flowplan.planner.importing.secrets import hide_in_commands
from flowplan.planner.importing.sources import LIVE, imported
from flowplan.providers.protocol import Catalogue
from flowplan.schemas.composition import Part, SpecFiles
from flowplan.schemas.documents import parse, read_text, scalar_text
from flowplan.schemas.errors import FlowplanError, InvalidInput, concealing
from flowplan.schemas.files import is_directory, is_file, is_missing, is_stream, mode_of
from flowplan.schemas.places import DEFAULT_SPEC, user_name, write_private
from flowplan.schemas.runs import Json, Objects
from flowplan.schemas.secrets import Redactor, is_common, reveal
from flowplan.schemas.text import counted, harmless, shortened
from flowplan.schemas.yaml_text import yaml_text
from flowplan.wanted import offline

DIFFERENT = 2
"""The exit code where a run would not be what its source is."""


class Cluster(NamedTuple):
    """Where Jobs are taken from that are there already: what ``kubectl get jobs`` takes too."""

    selector: str = ""
    namespace: str = ""
    context: str = ""

    def settings(self) -> dict[str, str]:
        """Return the settings of the provider."""
        return {k: v for k, v in (("context", self.context), ("namespace", self.namespace)) if v}


class How(NamedTuple):
    """What the command line says: the kind of all sources, what of them is wanted, and where and how to write."""

    kind: str = ""
    targets: Sequence[str] = ()
    profiles: Sequence[str] = ()
    templates: Sequence[str] = ()
    project: str = ""
    out: Path | None = None
    force: bool = False
    format: str = "text"


def import_(paths: Sequence[Path], cluster: Cluster | None, how: How) -> int:
    """Write the spec of what the sources run, and tell what is not the same; return the exit code."""
    check_format(how.format, ("text", "json"))
    check_directory("--out", how.out)
    if how.out and mode_of(how.out) and not how.force:
        raise InvalidInput(f"{how.out} exists already", subject="--out", hint="--force replaces it")
    if not paths and cluster is None:
        raise InvalidInput("there is no source", hint="name a file, - for the standard input, or --from-cluster")
    sources = [_read(path, how) for path in paths]
    if cluster is not None:
        sources.append(_listed(cluster))
    for one, other in combinations([source for source in sources if source.alone], 2):
        if one.project == other.project:
            raise InvalidInput(f"several files of {one.project} would be merged before they run", hint=one.alone)
    if not any(source.runs for source in sources):
        told = "; ".join(_line(remark) for source in sources for remark in source.remarks)
        raise InvalidInput("nothing that becomes a run was found", hint=told)
    context = cluster.context if cluster else ""
    providers = {LIVE[0]: {"context": context}} if context else {}
    names = ["the standard input" if is_stream(path) else str(path) for path in paths]
    origin = ", ".join([*names, *(["the cluster"] if cluster else [])])
    return _write(sources, origin, providers, how)


def _read(path: Path, how: How) -> Source:
    try:
        text = read_text(path)
    except InvalidInput as error:
        missing = "an object that runs already is recorded with `flowplan state import ADDR ID`"
        hint = missing if is_missing(path) else "name the files in it" if is_directory(path) else ""
        raise InvalidInput([f._replace(hint=f.hint or hint) for f in error.diagnostics]) from None
    there = Path.cwd() if is_stream(path) else path.absolute().parent
    here = (how.out or Path(DEFAULT_SPEC)).absolute().parent
    around = Around(
        home=os.path.expanduser("~"),  # noqa: PTH111 - without a home it is as it is
        user=user_name(os.getuid()),
        directory="" if there == here else os.path.relpath(there, here),
        absolute=str(there),
        dotenv=read_text(there / ".env") if is_file(there / ".env") else "",
        read=lambda name: read_text(there / name) if is_file(there / name) else None,
        templates={
            pool: (os.path.relpath(file, here), read_text(Path(file)))
            for pool, _, file in ((one if "=" in one else f"={one}").partition("=") for one in how.templates)
        },
        profiles=how.profiles,
        targets=how.targets,
    )
    return imported(text, "<stdin>" if str(path) == "-" else str(path), how.kind, around)


def _listed(cluster: Cluster) -> Source:
    provider_type, convert = LIVE
    engines = Engines(
        {"cluster": {"type": provider_type, **cluster.settings()}},
        lineage=str(uuid.UUID(int=0)),
        runs_dir=Path(),
        spec_dir=Path.cwd(),
    )
    with closing(engines):
        provider = engines.provider("cluster")
        assert isinstance(provider, Catalogue)
        return convert(provider.catalogue(cluster.selector))


def _write(sources: Sequence[Source], origin: str, providers: Mapping[str, Any], how: How) -> int:
    wanted = [
        run for source in sources for run in source.runs if any(fnmatchcase(run.name, t) for t in how.targets or ["*"])
    ]
    for run in wanted:
        hide_in_commands(run)
    runs = settled(wanted)
    if not runs:
        raise InvalidInput("nothing is left that would be imported", hint="--target names runs of the spec")
    variables = {name: declared for source in sources for name, declared in source.variables.items()}
    values = {name: value for source in sources for name, value in source.values.items() if name in variables}
    named = how.project or next((s.project for s in sources if s.project), "") or project_name(Path.cwd().name)

    def spec(some: Sequence[Imported]) -> str:
        return f"# Imported from {harmless(origin)}.\n{yaml_text(spec_of(named, some, providers, variables))}"

    text = spec(runs)
    redactor = Redactor(hidden.value for run in runs for hidden in run.secrets.values())
    with concealing(redactor):
        differences = _compared(spec, how.out or Path(DEFAULT_SPEC), runs, values)
    for run in runs:
        run.remarks[:0] = differences[run.name]
        run.remarks[:] = [_without_secrets(remark, redactor) for remark in run.remarks]
    remarks = [_without_secrets(remark, redactor) for source in sources for remark in source.remarks]
    output = Output(redactor)
    if how.out:
        write_spec(how.out, text)
    elif how.format == "text":
        output.data(text, end="")
    if how.format == "json":
        output.document(_document(text, runs, remarks))
    for line in _told(text, runs, remarks, how.out):
        output.note(line)
    return DIFFERENT if any(map(_lost, runs)) else 0


def _without_secrets(remark: Remark, redactor: Redactor) -> Remark:
    return remark._replace(why=redactor(remark.why), value=redactor.tree(remark.value))


def write_spec(path: Path, text: str) -> None:
    """Write the spec, whole or not at all."""
    try:
        write_private(path, text)
    except OSError as error:
        raise FlowplanError(f"{path} cannot be written: {error.strerror}") from error


def _compared(
    spec: Callable[[Sequence[Imported]], str], path: Path, runs: Sequence[Imported], values: Mapping[str, str]
) -> dict[str, list[Remark]]:
    """Return for each run in what the objects that it would send differ from its source, or why it would send none."""
    manifests, found, sound = ManifestsByType(), dict[str, list[Remark]](), list(runs)
    objects: dict[str, Objects] = {}
    while sound and not objects:
        try:
            objects = rendered_objects(spec(sound), path, sound, values)
        except InvalidInput as error:
            for fault in error.diagnostics:
                place = f"{fault.subject}."
                faulty = [run for run in sound if place.startswith(f"runs.{run.name}.")]
                if not faulty:
                    raise
                run = max(faulty, key=lambda one: len(one.name))
                at = place.removeprefix(f"runs.{run.name}.").rstrip(".")
                found.setdefault(run.name, []).append(
                    Remark(at, fault.message, fault.hint, run.at("/" + at.replace(".", "/")))
                )
            sound = [
                replace(run, fields={**run.fields, "needs": [n for n in run.fields.get("needs", ()) if n not in found]})
                for run in sound
                if run.name not in found
            ]
    return found | {run.name: unequal(run, objects[run.name], manifests[run.fields["provider"]]) for run in sound}


def rendered_objects(text: str, path: Path, runs: Sequence[Imported], values: Mapping[str, str]) -> dict[str, Objects]:
    """Return what each run of a spec would send, with the values of its variables and secrets as the source has them."""
    known = {secret: hidden.value for run in runs for secret, hidden in run.secrets.items()}
    read = SpecFiles(path, [Part(parse(text, str(path)), path.name, text)], [])
    given = {**values, **{s.name: value for s, value in known.items() if s.kind == VARIABLE}}
    wanted = offline(composed(read, ""), Given(given))
    unresolved = {f"(sensitive env:{s.name} unresolved)": value for s, value in known.items() if s.kind != VARIABLE}
    revealed = wanted.sealer.values | unresolved
    return {name: reveal(run.render(1).objects, revealed) for name, run in wanted.runs.items()}


def _lost(run: Imported) -> list[Remark]:
    return [remark for remark in run.remarks if remark.lost]


# --- what is told ----------------------------------------------------------------------------------------------------


def _told(text: str, runs: Sequence[Imported], remarks: Sequence[Remark], out: Path | None) -> Iterator[str]:
    """Yield the lines for people: what is the same, what is not, and what was put in the place of what."""
    for run in runs:
        lost = _lost(run)
        yield f"{run.name}: {'not equal' if lost else 'equal'} to {run.title}"
        yield from (f"  lost: {_line(remark)}" for remark in lost)
        yield from (f"  not carried over: {_line(remark)}" for remark in run.remarks if not remark.lost)
        for secret, hidden in run.secrets.items():
            where = f"{hidden.position}: " if hidden.position else ""
            yield f"  secret: {where}{hidden.path}: is a reference now; set {secret.given_by} where you plan and apply"
            if not is_common(hidden.value) and hidden.value in text:
                yield f"  warning: the value of {secret.given_by} stands in the spec at another place too; remove it there"
    yield from (f"not imported: {_line(remark)}" for remark in remarks)
    unlike = sum(bool(_lost(run)) for run in runs)
    written = f"Wrote {out}: " if out else ""
    verdict = "equal to the source" if not unlike else f"{unlike} not equal to the source, see above"
    yield f"{written}{counted(len(runs), 'run')}, {verdict}."


def _line(remark: Remark) -> str:
    value = "" if remark.value is None else f": {shortened(_scalar(remark.value), 60)}"
    where = f"{remark.position}: " if remark.position else ""
    place = f"{remark.path}{value}: " if remark.path else ""
    return f"{where}{place}{remark.why}{'; ' if remark.instead else ''}{remark.instead}"


def _scalar(value: Json) -> str:
    if isinstance(value, dict | list):
        return yaml_text([value])[2:].strip().replace("\n", " ")
    return f'"{value}"'.replace("\n", "\\n") if isinstance(value, str) and value != "nothing" else scalar_text(value)


def _document(text: str, runs: Sequence[Imported], remarks: Sequence[Remark]) -> dict[str, Any]:
    def told(remark: Remark) -> dict[str, Any]:
        at = remark.position
        where = {"file": at.file, "line": at.line, "column": at.column} if at else None
        return {"path": remark.path, "value": remark.value, "why": remark.why, "instead": remark.instead, "at": where}

    described = [
        {
            "name": run.name,
            "source": run.title,
            "equal": not _lost(run),
            "lost": [told(remark) for remark in _lost(run)],
            "not_carried_over": [told(remark) for remark in run.remarks if not remark.lost],
            "secrets": [{"path": h.path, "given_by": secret.given_by} for secret, h in run.secrets.items()],
        }
        for run in runs
    ]
    return {
        "equal": all(one["equal"] for one in described),
        "spec": text,
        "runs": described,
        "not_imported": [told(remark) for remark in remarks],
    }
