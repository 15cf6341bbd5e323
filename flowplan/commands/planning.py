"""The commands that only look at plans: plan and show."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flowplan import progress
from flowplan.commands import last_plan
from flowplan.commands.arguments import check_directory, check_format, seconds
from flowplan.commands.places import Place, env_option, place, settled, shown, state_of
from flowplan.engines import kinds_of
from flowplan.given import Given
from flowplan.output import Output
from flowplan.planner.compare.plan import Options, has_changes
from flowplan.planning import Planned, plan_again, plan_destroy, plan_spec
from flowplan.project import Project, Request, open_state
from flowplan.repository import links
from flowplan.schemas.errors import FlowplanError, InvalidInput, StateError
from flowplan.schemas.files import is_stream
from flowplan.schemas.places import refuse_foreign
from flowplan.schemas.plans import Plan
from flowplan.schemas.times import timestamp
from flowplan.state.location import FileLocation, Location
from flowplan.terminal import use_colour, width

if TYPE_CHECKING:
    from flowplan.schemas.plan_documents import PlanFile


class Shown(NamedTuple):
    """How a plan is to be shown."""

    format: str = "text"
    full: bool = False
    context: int = 0
    explain: bool = False
    json_into: Path | None = None
    summary: Path | None = None
    strict: bool = False


def options(
    mode: str,
    target: Sequence[str] | None,
    exclude: Sequence[str] | None,
    rerun: Sequence[str] | None,
    allow_interrupt: Sequence[str] | None,
) -> Options:
    """Return the planner's options of a command line."""
    return Options(
        mode=mode,
        target=tuple(target or ()),
        exclude=tuple(exclude or ()),
        rerun=tuple(rerun or ()),
        allow_interrupt=tuple(allow_interrupt or ()),
    )


def request(
    options: Options,
    given: Given,
    refresh: bool,
    preflight: bool,
    policy: Sequence[Path] | None,
    require_state: bool = False,
) -> Request:
    """Return what a command line wants planned; ``at`` adds where."""
    return Request(
        options=options,
        given=given,
        refresh=refresh,
        preflight=preflight and refresh,
        policies=tuple(policy or ()),
        require_state=require_state or os.environ.get("FLOWPLAN_REQUIRE_STATE", "0") not in ("", "0"),
    )


def at(request: Request, place: Place) -> Request:
    """Return the same request, for the state and the spec of a place."""
    return request._replace(
        state=place.state, spec=shown(place.spec), other_state=place.other, environment=place.environment
    )


class Kept(NamedTuple):
    """What becomes of a plan beside being shown: a file, a time until which it counts, and whether changes are told by the exit code."""

    out: Path | None = None
    max_age: str | None = None
    detailed: bool = False


def plan(
    spec: Path | None,
    state: str | None,
    environments: Sequence[str],
    request: Request,
    how: Shown,
    kept: Kept,
    check: Path | None,
) -> int:
    """Make a plan, keep it as the last one, and show it; of several environments one for each."""
    check_format(how.format, ("text", "json", "markdown"))
    check_directory("--out", kept.out)
    if kept.out and str(kept.out) in ("json", "markdown", "md", "text", "yaml"):
        raise InvalidInput(
            f'--out names the file of the plan, which would be called "{kept.out}"',
            hint="write --format json or --format markdown; or give the file another name",
        )
    check_directory("--json-into", how.json_into)
    several = len(environments) > 1
    if several:
        _check_several(spec, state, environments, "--check" if check else f"--format {how.format}")
    elif check:
        return compare(check, at(request, settled(place(state, environment=(*environments, None)[0]))))
    made = []
    for environment in environments or (None,):
        try:
            made.append(_make(place(state, spec, environment), request, how.json_into, kept, several))
        except FlowplanError:
            if several:
                Output().note(f"environment {environment}:")
            raise
    plans, commands = zip(*made, strict=True)
    show_plans(plans, Output(), how, commands)
    return max(_verdict(plan, kept.detailed, how.strict) for plan in plans)


def _check_several(spec: Path | None, state: str | None, environments: Sequence[str], option: str) -> None:
    if len(set(environments)) < len(environments):
        raise InvalidInput(f"an environment is named twice: {', '.join(environments)}")
    if option in ("--check", "--format json") or (spec and is_stream(spec)):
        what = "a spec on stdin" if spec and is_stream(spec) else option
        raise InvalidInput(f"{what} is for one environment", hint="name one with --env")
    found = place(state, spec, environments[0])
    if found.named and isinstance(found.state, FileLocation):
        raise InvalidInput("a file holds the state of one environment", hint="leave --state and FLOWPLAN_STATE out")


def _make(found: Place, request: Request, json_into: Path | None, kept: Kept, several: bool) -> tuple[Plan, str]:
    """Make a plan and keep it; return it, and the command that applies it.

    Args:
        several: it is one of several, so that the name of its environment is put into those of files: ``plan.dev.json``.
    """
    from flowplan.schemas.plan_documents import write_plan

    request = at(request, settled(found) if request.options.mode == "destroy" else found)
    out, json_into = (
        file.with_name(f"{file.stem}.{found.environment}{file.suffix}") if file and several else file
        for file in (kept.out, json_into)
    )
    with _planned(request) as (project, planned):
        plan = planned.plan
        if (age := seconds("--max-age", kept.max_age)) is not None:
            plan = replace(plan, expires_at=timestamp(datetime.now(UTC) + timedelta(seconds=age)))
        progress.stage("writing the plan")
        with progress.shown():
            last_plan.keep(plan, project, request.given)
            for file in (out, json_into):
                if file:
                    write_plan(plan, file, project.store.key)
        return plan, apply_command(out, plan, request.state)


@contextmanager
def _planned(request: Request) -> Iterator[tuple[Project, Planned]]:
    """Yield the open project of a request, and its plan."""
    if request.options.mode == "destroy":
        with closing(open_state(request.state)) as store, Project.of_state(store, all_secrets=True) as project:
            yield project, plan_destroy(project, request)
    else:
        with Project.of_spec(request) as project:
            yield project, plan_spec(project, request)


def _verdict(plan: Plan, detailed: bool, strict: bool) -> int:
    errors = [f for c in plan.changes for f in c.preflight if f.severity == "error"]
    if any(strict or f.check == "policy" for f in errors):
        return 6
    return 2 if detailed and has_changes(plan.changes) else 0


def compare(path: Path, request: Request) -> int:
    """Return 0 when the saved plan of ``plan --check`` is still what would be done; else raise PlanStale with the difference."""
    from flowplan.commands.refusals import usable
    from flowplan.reviewing import check_reviewed, sealed_plan

    reviewed = sealed_plan(path, request.state, request.environment)
    usable(reviewed, path, request)
    with Project.of_plan(request, reviewed) as project:
        check_reviewed(reviewed, plan_again(project, request, reviewed).plan, project.store)
    Output().note(f"{path}: still what would be done, {reviewed.digest}")
    return 0


def show(path: Path | None, named_state: str | None, environment: str | None, how: Shown) -> int:
    """Show a saved plan, and say when it is not known to be genuine; 4 when it is forged or edited."""
    from flowplan.schemas.plan_documents import read_plan

    check_format(how.format, ("text", "json", "markdown", "html"))
    if path is None:
        state = state_of(named_state, environment)
        path = last_plan.plan_file(state.beside)
        file = read_plan(path)
    else:
        file = read_plan(path)
        state = place(named_state, environment=environment or file.plan.environment).state
    plan, command, forged = looked_at(file, path, state)
    if how.format == "html":
        from flowplan.commands.reporting import plan_page

        Output().data(plan_page(plan, command), "")
    else:
        show_plan(plan, Output(), how, command)
    return 4 if forged else 0


def looked_at(file: PlanFile, path: Path, state: Location) -> tuple[Plan, str, bool]:
    """Return the plan of a file, which says itself when it is not known to be genuine; what applies it; whether it is forged."""
    from flowplan.schemas.sources import Diagnostic

    plan, (fault, forged) = file.plan, _authenticity(file, path, state)
    if fault:
        remark = Diagnostic(fault, severity="error" if forged else "warning", hint="apply refuses it" if forged else "")
        plan = replace(plan, diagnostics=(remark, *plan.diagnostics))
    saved = None if path == last_plan.plan_file(state.beside) else path
    return plan, "" if forged else apply_command(saved, plan, state), forged


def _authenticity(file: PlanFile, path: Path, state: Location) -> tuple[str, bool]:
    """Return why a plan is not known to be genuine, "" when it is, and whether it is known not to be."""
    from flowplan.schemas.plan_documents import unsealed

    try:
        store = state.open(read_only=True)
    except StateError as error:
        return f"not verified, no state to check the seal with: {error.message}", False
    with closing(store):
        fault = unsealed(file, path, store.lineage, store.key)
        other = file.plan.lineage != store.lineage
    return (f"not verified: {fault}" if other else fault), bool(fault) and not other


def apply_command(saved: Path | None, plan: Plan, state: Location) -> str:
    """Return the command that applies a saved plan, or the last one, ready to be typed in this directory."""
    if saved is None and not last_plan.usable_later(plan):
        saved = shown(last_plan.plan_file(state.beside))
    words = ["flowplan", "apply", *([str(saved)] if saved else []), *env_option(plan.environment)]
    here = place(os.environ.get("FLOWPLAN_STATE") or None, environment=plan.environment).state
    if not state.same(here):
        words += ["--state", str(state)]
    return shlex.join(words)


def show_plan(plan: Plan, output: Output, shown: Shown, command: str, *, to_stderr: bool = False) -> None:
    """Print a plan in the form that was asked for, and append it to the summary that was asked for.

    Args:
        command: the command that applies it; "" where it is being applied already.
    """
    show_plans([plan], output, shown, [command], to_stderr=to_stderr)


def show_plans(
    plans: Sequence[Plan], output: Output, shown: Shown, commands: Sequence[str], *, to_stderr: bool = False
) -> None:
    """Do the same with the plans of several environments, of which Markdown says once what is alike."""
    if shown.summary:
        refuse_foreign(shown.summary)
        try:
            with shown.summary.open("a", encoding="utf-8") as file:
                file.write(_markdown(plans, commands, whole=True))
        except OSError as error:
            raise InvalidInput(f"cannot write {shown.summary}: {error.strerror}") from error
    if shown.format == "json":
        from flowplan.schemas.plan_documents import plan_json

        output.data(plan_json(plans[0]).rstrip("\n"))
    elif shown.format == "markdown":
        output.data(_markdown(plans, commands).rstrip("\n"))
    else:
        from flowplan.render.plan_text import plan_text

        stream, say = (sys.stderr, output.drawn) if to_stderr else (sys.stdout, output.data)
        for number, (plan, command) in enumerate(zip(plans, commands, strict=True)):
            lines = plan_text(
                plan,
                kinds_of(change.type for change in plan.changes),
                colour=use_colour(stream),
                full=shown.full,
                context=shown.context,
                width=width(stream),
                explain=shown.explain,
                now=datetime.now(UTC) if stream.isatty() else None,
                apply_command=command,
            )
            for line in [*([""] if number else []), *lines]:
                say(line)


def _markdown(plans: Sequence[Plan], commands: Sequence[str], *, whole: bool = False) -> str:
    from flowplan.render.plan_markdown import COMMENT, SUMMARY, plan_markdown, plans_markdown

    kinds = kinds_of(change.type for plan in plans for change in plan.changes)
    link, budget = links(Path(plans[0].spec_path).parent), SUMMARY if whole else COMMENT
    if len(plans) > 1:
        return plans_markdown(plans, kinds, budget=budget, apply_commands=commands, link=link)
    return plan_markdown(plans[0], kinds, budget=budget, apply_command=commands[0], link=link)
