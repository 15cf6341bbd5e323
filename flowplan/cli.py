"""The command line: options and their help; what a command does is in flowplan.commands, imported when it runs."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from flowplan import interruption
from flowplan.options import Argument, Command, Option, understood
from flowplan.schemas.errors import FlowplanError, InvalidInput

COMMANDS: list[Command] = []

Declared = TypeVar("Declared", bound=Callable[..., "int | None"])


def command(*words: str) -> Callable[[Declared], Declared]:
    """Make a function the command of these words; what its parameters are called and take is in their annotations."""

    def declare(function: Declared) -> Declared:
        COMMANDS.append(Command(words or (function.__name__,), function))
        return function

    return declare


Spec = Annotated[
    Path | None, Argument(metavar="SPEC", help="The spec; default the flowplan.yaml of the project; - is stdin.")
]
State = Annotated[
    str | None,
    Option(
        "--state",
        envvar="FLOWPLAN_STATE",
        metavar="FILE|URL",
        help="The state: a file, or a postgresql:// URL; default .flowplan/state.db beside the spec.",
    ),
]
Env = Annotated[
    str | None,
    Option("--env", envvar="FLOWPLAN_ENV", metavar="ENV", help="The environment, of a project that has some."),
]
Envs = Annotated[
    list[str] | None,
    Option(
        "--env", envvar="FLOWPLAN_ENV", metavar="ENV", help="The environment, or several: a plan for each. Repeatable."
    ),
]
RequireState = Annotated[
    bool, Option("--require-state", help="Refuse to make a new state; FLOWPLAN_REQUIRE_STATE=1 does the same.")
]
Var = Annotated[list[str] | None, Option("--var", metavar="NAME=VALUE", help="Value of a variable. Repeatable.")]
VarFile = Annotated[
    list[Path] | None, Option("--var-file", metavar="FILE", help="YAML file with values of variables. Repeatable.")
]
Target = Annotated[
    list[str] | None,
    Option("--target", metavar="ADDR", help="Only these runs (name, address or glob) and what they need. Repeatable."),
]
OnlyTarget = Annotated[
    list[str] | None, Option("--target", metavar="ADDR", help="Only these runs (name, address or glob). Repeatable.")
]
Exclude = Annotated[list[str] | None, Option("--exclude", metavar="ADDR", help="Not these runs. Repeatable.")]
Rerun = Annotated[
    list[str] | None,
    Option(
        "--rerun",
        metavar="ADDR[+]",
        help="Start these runs again even if they succeeded; with + also everything that needs them. Repeatable.",
    ),
]
AllowInterrupt = Annotated[
    list[str] | None, Option("--allow-interrupt", metavar="ADDR", help="Ignore `protect` for these runs. Repeatable.")
]
Refresh = Annotated[bool, Option("--refresh/--no-refresh", help="Ask the engines first.")]
Preflight = Annotated[bool, Option("--preflight/--no-preflight", help="Check for what would make apply fail.")]
Yes = Annotated[bool, Option("--yes", "-y", help="Do not ask for approval.")]
LockTimeout = Annotated[str, Option("--lock-timeout", metavar="TIME", help="Wait for the state's lock: 90s, 10m.")]
Parallelism = Annotated[
    int, Option("--parallelism", min=1, max=1000, metavar="N", help="Engine calls at the same time.")
]
Detach = Annotated[bool, Option("--detach", "-d", help="Return once everything that can start has started.")]
WaitTimeout = Annotated[
    str | None, Option("--wait-timeout", metavar="TIME", help="Stop following after this time; runs go on.")
]
Format = Annotated[str, Option("--format", metavar="text|json", help="How to print.")]
PlanFormat = Annotated[str, Option("--format", metavar="text|json|markdown", help="How to print the plan.")]
ShowFormat = Annotated[str, Option("--format", metavar="text|json|markdown|html", help="How to print the plan.")]
Full = Annotated[bool, Option("--full", help="Show unchanged fields and runs too.")]
Context = Annotated[int, Option("--context", min=0, metavar="N", help="Unchanged lines around changed ones.")]
Explain = Annotated[bool, Option("--explain", help="Show where each field was written.")]
JsonInto = Annotated[Path | None, Option("--json-into", metavar="FILE", help="Write the JSON form to a file as well.")]
SummaryFile = Annotated[
    Path | None, Option("--summary-file", metavar="FILE", help="Append the Markdown form (CI job summaries).")
]
Strict = Annotated[bool, Option("--strict", help="Exit 6 when a part of apply would fail.")]
Policy = Annotated[
    list[Path] | None, Option("--policy", metavar="FILE", help="Policies that the objects must satisfy. Repeatable.")
]


def _types() -> str:
    from flowplan.engines import ManifestsByType

    return "|".join(ManifestsByType())


def _sources() -> str:
    from flowplan.planner.importing.sources import KINDS

    return "|".join(KINDS)


@command()
def init(
    directory: Annotated[Path, Argument(help="Where to write flowplan.yaml.")] = Path(),
    provider: Annotated[str, Option(metavar=_types, help="The provider type of the run.")] = "process",
) -> None:
    """Write a first spec to start from."""
    from flowplan.commands import starting

    starting.init(directory, provider)


@command()
def validate(
    spec: Spec = None, env: Env = None, var: Var = None, var_file: VarFile = None, format: Format = "text"
) -> None:
    """Check a spec without any engine or state. All its environments are checked unless one is named."""
    from flowplan.commands import arguments, starting

    starting.validate(spec, env, arguments.given(var, var_file), format)


@command()
def plan(
    spec: Spec = None,
    state: State = None,
    env: Envs = None,
    var: Var = None,
    var_file: VarFile = None,
    target: Target = None,
    exclude: Exclude = None,
    rerun: Rerun = None,
    allow_interrupt: AllowInterrupt = None,
    destroy: Annotated[bool, Option("--destroy", help="Plan the destruction of everything recorded.")] = False,
    refresh: Refresh = True,
    refresh_only: Annotated[bool, Option("--refresh-only", help="Only what changed outside flowplan.")] = False,
    preflight: Preflight = True,
    policy: Policy = None,
    out: Annotated[Path | None, Option("--out", "-o", metavar="FILE", help="Save the plan.")] = None,
    check: Annotated[
        Path | None,
        Option("--check", metavar="PLAN", help="Check whether this plan is still what would be done (exit 4 if not)."),
    ] = None,
    max_age: Annotated[
        str | None, Option("--max-age", metavar="TIME", help="Let the plan expire after this time.")
    ] = None,
    format: PlanFormat = "text",
    json_into: JsonInto = None,
    summary_file: SummaryFile = None,
    strict: Strict = False,
    detailed_exitcode: Annotated[bool, Option("--detailed-exitcode", help="Exit 2 when there are changes.")] = False,
    require_state: RequireState = False,
    explain: Explain = False,
    full: Full = False,
    context: Context = 0,
) -> int:
    """Show what apply would do, and why. Writes nothing but the plan."""
    from flowplan.commands import arguments, planning

    if destroy and refresh_only:
        raise InvalidInput("--destroy and --refresh-only exclude each other", hint="see `flowplan plan --help`")
    mode = "destroy" if destroy else "refresh_only" if refresh_only else "normal"
    options = planning.options(mode, target, exclude, rerun, allow_interrupt)
    request = planning.request(options, arguments.given(var, var_file), refresh, preflight, policy, require_state)
    shown = planning.Shown(
        format, full=full, context=context, explain=explain, json_into=json_into, summary=summary_file, strict=strict
    )
    kept = planning.Kept(out, max_age, detailed_exitcode)
    return planning.plan(spec, state, env or (), request, shown, kept, check)


@command()
def apply(
    what: Annotated[
        Path | None,
        Argument(
            metavar="PLAN|SPEC",
            help="A saved plan or a spec; default the last plan if nothing changed since, else its spec.",
        ),
    ] = None,
    state: State = None,
    env: Env = None,
    var: Var = None,
    var_file: VarFile = None,
    target: Target = None,
    exclude: Exclude = None,
    rerun: Rerun = None,
    allow_interrupt: AllowInterrupt = None,
    yes: Yes = False,
    detach: Detach = False,
    refresh: Refresh = True,
    preflight: Preflight = True,
    policy: Policy = None,
    require_state: RequireState = False,
    parallelism: Parallelism = 10,
    wait_timeout: WaitTimeout = None,
    lock_timeout: LockTimeout = "0",
    max_age: Annotated[
        str | None, Option("--max-age", metavar="TIME", help="Refuse a plan file older than this.")
    ] = None,
    format: Format = "text",
    json_into: JsonInto = None,
    strict: Strict = False,
    stream: Annotated[bool, Option("--stream/--no-stream", help="Show the output of the runs.")] = True,
) -> int:
    """Do what was reviewed, then follow every run to its end."""
    from flowplan.commands import applying, arguments, planning

    options = planning.options("normal", target, exclude, rerun, allow_interrupt)
    request = planning.request(options, arguments.given(var, var_file), refresh, preflight, policy, require_state)
    how = applying.How(
        yes=yes,
        detach=detach,
        parallelism=parallelism,
        wait_timeout=arguments.seconds("--wait-timeout", wait_timeout),
        lock_timeout=arguments.seconds("--lock-timeout", lock_timeout) or 0.0,
        format=format,
        stream=stream,
        json_into=json_into,
        max_age=arguments.seconds("--max-age", max_age),
        strict=strict,
    )
    return applying.apply(what, state, env, request, how)


@command()
def destroy(
    spec: Spec = None,
    state: State = None,
    env: Env = None,
    target: OnlyTarget = None,
    exclude: Exclude = None,
    allow_interrupt: AllowInterrupt = None,
    yes: Yes = False,
    if_exists: Annotated[bool, Option("--if-exists", help="Succeed where there is no state.")] = False,
    refresh: Refresh = True,
    parallelism: Parallelism = 10,
    lock_timeout: LockTimeout = "0",
    format: Format = "text",
) -> int:
    """Stop and remove everything that was created. The history stays."""
    from flowplan.commands import applying, arguments, planning

    options = planning.options("destroy", target, exclude, None, allow_interrupt)
    request = planning.request(options, arguments.given(None, None), refresh, False, None)
    how = applying.How(
        yes=yes,
        parallelism=parallelism,
        lock_timeout=arguments.seconds("--lock-timeout", lock_timeout) or 0.0,
        format=format,
    )
    return applying.destroy(spec, state, env, request, how, if_exists=if_exists)


@command()
def watch(
    address: Annotated[list[str] | None, Argument(metavar="ADDR", help="Only these runs.")] = None,
    state: State = None,
    env: Env = None,
    wait_timeout: WaitTimeout = None,
    format: Format = "text",
    stream: Annotated[bool, Option("--stream/--no-stream", help="Show the output of the runs.")] = True,
    tail: Annotated[
        int | None,
        Option("--tail", "-n", min=0, metavar="N", help="Of what they printed before only the last lines of each."),
    ] = None,
) -> int:
    """Follow the runs that are still live until they finish."""
    from flowplan.commands import applying, arguments, places

    how = applying.How(
        wait_timeout=arguments.seconds("--wait-timeout", wait_timeout), format=format, stream=stream, tail=tail
    )
    return applying.watch(places.state_of(state, env), address or [], how)


@command()
def serve(
    spec: Spec = None,
    state: State = None,
    env: Env = None,
    listen: Annotated[
        str, Option("--listen", metavar="ADDRESS:PORT", help="Where to answer over HTTP; none for nowhere.")
    ] = "127.0.0.1:8470",
    host: Annotated[
        list[str] | None, Option("--host", metavar="NAME", help="A further name it is reached by. Repeatable.")
    ] = None,
    token_file: Annotated[
        Path | None, Option("--token-file", metavar="FILE", help="A token that readers have to show.")
    ] = None,
    tls_cert: Annotated[Path | None, Option("--tls-cert", metavar="FILE", help="Certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, Option("--tls-key", metavar="FILE", help="Its key, PEM.")] = None,
    parallelism: Parallelism = 10,
) -> int:
    """Carry approved plans on without a terminal. How things stand is answered over HTTP."""
    from flowplan.commands import serving

    how = serving.Listen(tuple(host or ()), token_file, tls_cert, tls_key)
    return serving.serve(spec, state, env, listen, how, parallelism)


@command()
def cancel(
    address: Annotated[
        list[str] | None, Argument(metavar="ADDR", help="Only these runs (name, address or glob).")
    ] = None,
    state: State = None,
    env: Env = None,
    plan: Annotated[
        str | None, Option("--plan", metavar="DIGEST", help="Only what this plan started or starts.")
    ] = None,
    stop: Annotated[bool, Option("--stop", help="Stop what runs as well; it is recorded as cancelled.")] = False,
    allow_interrupt: AllowInterrupt = None,
    parallelism: Parallelism = 10,
    lock_timeout: LockTimeout = "30s",
) -> int:
    """Drop approved runs that have not started. With --stop also end what runs."""
    from flowplan.commands import cancelling, places

    how = cancelling.How(plan, stop, allow_interrupt or (), parallelism, lock_timeout)
    return cancelling.cancel(places.state_of(state, env), address or [], how)


@command()
def status(
    address: Annotated[list[str] | None, Argument(metavar="ADDR", help="Only these runs.")] = None,
    state: State = None,
    env: Env = None,
    failed: Annotated[
        bool, Option("--failed", help="Only runs that failed, timed out, are lost or were skipped.")
    ] = False,
    running: Annotated[bool, Option("--running", help="Only runs that have not ended.")] = False,
    refresh: Refresh = True,
    format: Format = "text",
) -> None:
    """Show the status of every run; those with a problem come last."""
    from flowplan.commands import places, reading

    reading.status(places.state_of(state, env), address or [], refresh, format, failed=failed, running=running)


@command()
def logs(
    address: Annotated[list[str], Argument(metavar="ADDR", help="The runs: addresses, names of runs, or globs.")],
    state: State = None,
    env: Env = None,
    follow: Annotated[bool, Option("--follow", "-f", help="Go on to the end of the runs.")] = False,
    tail: Annotated[int | None, Option("--tail", "-n", min=0, metavar="N", help="Only the last lines of each.")] = None,
    since: Annotated[
        str | None, Option("--since", metavar="TIME", help="Only lines since a time, or a duration ago: 15m.")
    ] = None,
    timestamps: Annotated[bool, Option("--timestamps", "-t", help="Show when each line was written.")] = False,
    container: Annotated[
        str, Option("--container", "-c", metavar="NAME", help="A sidecar or init container (Kubernetes).")
    ] = "",
    attempt: Annotated[
        int | None, Option("--attempt", min=1, metavar="N", help="The attempt to show; default the last.")
    ] = None,
    raw: Annotated[bool, Option("--raw", help="As the run wrote it: with all escapes; secrets stay hidden.")] = False,
    format: Format = "text",
) -> None:
    """Show the output of runs. Where the engine has none any more, its stored end."""
    from flowplan.commands import arguments, places
    from flowplan.commands import logs as outputs

    wanted = outputs.Wanted(
        attempt, follow, tail, arguments.moment("--since", since), timestamps, container, "raw" if raw else format
    )
    outputs.logs(places.state_of(state, env), address, wanted)


@command()
def history(
    address: Annotated[list[str] | None, Argument(metavar="ADDR", help="Only these runs.")] = None,
    state: State = None,
    env: Env = None,
    since: Annotated[
        str | None,
        Option("--since", metavar="TIME", help="Only what lives, or ended since a time, or a duration ago: 24h."),
    ] = None,
    failed: Annotated[bool, Option("--failed", help="Only attempts that failed, timed out or are lost.")] = False,
    format: Format = "text",
) -> None:
    """Show every apply and every attempt. When it started, how long it took and how it ended."""
    from flowplan.commands import arguments, places, reading

    reading.history(places.state_of(state, env), address or [], arguments.moment("--since", since), failed, format)


@command()
def events(
    address: Annotated[str | None, Argument(metavar="ADDR", help="Only this run.")] = None,
    state: State = None,
    env: Env = None,
    after: Annotated[int, Option("--after", metavar="SEQ", help="Only events after this sequence number.")] = 0,
    since: Annotated[
        str | None, Option("--since", metavar="TIME", help="Only events since a time, or a duration ago: 24h.")
    ] = None,
    failed: Annotated[bool, Option("--failed", help="Only runs that failed, timed out or were lost.")] = False,
    last: Annotated[int | None, Option("--last", "-n", min=0, metavar="N", help="Only the newest events.")] = None,
    follow: Annotated[bool, Option("--follow", "-f", help="Go on with events as they come, until Ctrl-C.")] = False,
    format: Format = "text",
) -> None:
    """Show every transition of every run, and every retry."""
    from flowplan.commands import arguments, events, places

    wanted = events.Wanted(after, arguments.moment("--since", since), failed, last, follow)
    events.events(places.state_of(state, env), address, wanted, format)


@command()
def show(
    plan: Annotated[Path | None, Argument(metavar="PLAN", help="A saved plan; default the last one.")] = None,
    state: State = None,
    env: Env = None,
    format: ShowFormat = "text",
    full: Full = False,
    context: Context = 0,
    explain: Explain = False,
) -> int:
    """Show a saved plan, and whether it is genuine."""
    from flowplan.commands import planning

    shown = planning.Shown(format, full=full, context=context, explain=explain)
    return planning.show(plan, state, env, shown)


@command()
def report(
    plan: Annotated[
        Path | None, Argument(metavar="PLAN", help="A saved plan to show; default the last plan, or what was applied.")
    ] = None,
    state: State = None,
    env: Env = None,
    out: Annotated[
        Path | None, Option("--out", "-o", metavar="FILE", help="Where to write it; default stdout.")
    ] = None,
    format: Annotated[str, Option("--format", metavar="html|json", help="The page, or the document in it.")] = "html",
    logs: Annotated[
        str, Option("--logs", metavar="all|failed|none", help="The attempts whose output is in it.")
    ] = "failed",
    max_size: Annotated[
        str, Option("--max-size", metavar="SIZE", help="How large the page may be; it says what it leaves out.")
    ] = "5MB",
    refresh: Refresh = True,
) -> None:
    """Write one page that shows the runs and the plan. With their timeline, graph, output and history."""
    from flowplan.commands import reporting

    reporting.report(plan, state, env, out, format, logs, max_size, refresh)


@command()
def graph(
    plan: Annotated[Path | None, Argument(metavar="PLAN", help="A saved plan; default the last one.")] = None,
    state: State = None,
    env: Env = None,
    format: Annotated[str, Option("--format", metavar="text|mermaid", help="How to draw.")] = "text",
    refresh: Refresh = True,
) -> None:
    """Draw what needs what. Each run once with how its cells stand, also what has not started or is only planned."""
    from flowplan.commands import reporting

    reporting.graph(plan, state, env, format, refresh)


@command()
def diff(
    spec: Spec = None,
    env: Annotated[
        list[str] | None, Option("--env", metavar="ENV", help="The environments to compare: give it twice.")
    ] = None,
    var: Var = None,
    var_file: VarFile = None,
    format: Format = "text",
) -> None:
    """Show what differs between two environments. In the objects that they would send, and where that is written."""
    from flowplan.commands import arguments, differing

    differing.diff(spec, env or [], arguments.given(var, var_file), format)


@command("import")
def import_(
    source: Annotated[
        list[Path] | None,
        Argument(
            metavar="SOURCE",
            help="Kubernetes manifests, compose files, prefect.yaml, crontabs, batch scripts; - is stdin.",
        ),
    ] = None,
    kind: Annotated[
        str, Option("--kind", metavar=_sources, help="What the files are; default: told by their content.")
    ] = "",
    target: Annotated[
        list[str] | None, Option("--target", metavar="NAME", help="Only what has this name, or glob. Repeatable.")
    ] = None,
    profile: Annotated[
        list[str] | None, Option("--profile", metavar="NAME", help="A profile of compose to enable. Repeatable.")
    ] = None,
    template: Annotated[
        list[str] | None,
        Option(
            "--template", metavar="[POOL=]FILE", help="The base job template of a work pool of Prefect. Repeatable."
        ),
    ] = None,
    from_cluster: Annotated[
        bool, Option("--from-cluster", help="Import Jobs and CronJobs that a cluster of Kubernetes has.")
    ] = False,
    selector: Annotated[
        str, Option("--selector", "-l", metavar="LABELS", help="With --from-cluster: only what has these labels.")
    ] = "",
    namespace: Annotated[
        str, Option("--namespace", "-n", metavar="NAME", help="With --from-cluster: of this namespace.")
    ] = "",
    kube_context: Annotated[
        str, Option("--kube-context", metavar="NAME", help="With --from-cluster: of this context of the kubeconfig.")
    ] = "",
    project: Annotated[
        str, Option("--project", metavar="NAME", help="Name of the project; default: the source's, or the directory's.")
    ] = "",
    out: Annotated[
        Path | None, Option("--out", "-o", metavar="FILE", help="Write the spec to a file; default: print it.")
    ] = None,
    force: Annotated[bool, Option("--force", help="Replace the file if it is there.")] = False,
    format: Format = "text",
) -> int:
    """Make a spec of what other tools run, and prove it equal. Exit 2 where it does not run the same."""
    from flowplan.commands import importing

    if (selector or namespace or kube_context) and not from_cluster:
        raise InvalidInput("--selector, --namespace and --kube-context need --from-cluster")
    cluster = importing.Cluster(selector, namespace, kube_context) if from_cluster else None
    return importing.import_(
        source or [],
        cluster,
        importing.How(kind, target or [], profile or [], template or [], project, out, force, format),
    )


@command()
def schema(
    kind: Annotated[
        str, Argument(metavar="spec|include|plan|event|status|history|report", help="Which document.")
    ] = "spec",
) -> None:
    """Print the JSON Schema of a document, for editors and programs."""
    from flowplan.commands import starting

    starting.schema(kind)


@command()
def completion(shell: Annotated[str, Argument(metavar="bash|zsh|fish", help="Your shell.")]) -> None:
    """Print what a shell reads to complete commands. Also options, addresses, variables and files."""
    from flowplan.commands import completion

    completion.script(shell)


@command("state", "list")
def state_list(state: State = None, env: Env = None, format: Format = "text") -> None:
    """List the addresses that are managed."""
    from flowplan.commands import places, states

    states.list_(places.state_of(state, env), format)


@command("state", "show")
def state_show(
    address: Annotated[str, Argument(metavar="ADDR", help="The run.")], state: State = None, env: Env = None
) -> None:
    """Show everything recorded about a run, as JSON."""
    from flowplan.commands import places, states

    states.show(places.state_of(state, env), address)


@command("state", "mv")
def state_mv(
    old: Annotated[str, Argument(metavar="FROM", help="An address, or a run with all its cells.")],
    new: Annotated[str, Argument(metavar="TO", help="What it is called from now on.")],
    state: State = None,
    env: Env = None,
    lock_timeout: LockTimeout = "0",
) -> None:
    """Rename an address; the run is not touched."""
    from flowplan.commands import places, states

    states.move(places.state_of(state, env), old, new, lock_timeout)


@command("state", "rm")
def state_rm(
    address: Annotated[list[str], Argument(metavar="ADDR", help="The runs.")],
    state: State = None,
    env: Env = None,
    lock_timeout: LockTimeout = "0",
) -> None:
    """Forget runs; their objects stay on the engine."""
    from flowplan.commands import places, states

    states.remove(places.state_of(state, env), address, lock_timeout)


@command("state", "import")
def state_import(
    address: Annotated[str, Argument(metavar="ADDR", help="The run that it becomes.")],
    object_id: Annotated[
        str, Argument(metavar="ID", help="Container id, namespace/job, pid, or number of a job of Slurm.")
    ],
    spec: Annotated[Path | None, Option("--spec", metavar="SPEC", help="The spec; default flowplan.yaml.")] = None,
    state: State = None,
    env: Env = None,
    var: Var = None,
    var_file: VarFile = None,
    lock_timeout: LockTimeout = "0",
) -> None:
    """Import an existing object as a managed run."""
    from flowplan.commands import arguments, places, states

    states.import_(places.place(state, spec, env), address, object_id, arguments.given(var, var_file), lock_timeout)


@command("state", "pull")
def state_pull(
    state: State = None,
    env: Env = None,
    with_key: Annotated[bool, Option("--with-key", help="Include the key of the secrets' fingerprints.")] = False,
) -> None:
    """Print the whole state as JSON."""
    from flowplan.commands import places, states

    states.pull(places.state_of(state, env), with_key)


@command("state", "push")
def state_push(
    file: Annotated[Path, Argument(metavar="FILE", help="What `state pull` printed.")],
    state: State = None,
    env: Env = None,
    lock_timeout: LockTimeout = "0",
) -> None:
    """Replace the state with the output of `state pull`. Refused where that is older."""
    from flowplan.commands import places, states

    states.push(places.state_of(state, env), file, lock_timeout)


@command("state", "rebuild")
def state_rebuild(
    spec: Spec = None,
    state: State = None,
    env: Env = None,
    var: Var = None,
    var_file: VarFile = None,
    lineage: Annotated[
        str,
        Option("--lineage", metavar="ID", help="The lineage to rebuild, when the engines hold runs of several states."),
    ] = "",
    lock_timeout: LockTimeout = "0",
) -> None:
    """Make a lost state again from the labels on the engines."""
    from flowplan.commands import arguments, places, states

    states.rebuild(places.place(state, spec, env), arguments.given(var, var_file), lineage, lock_timeout)


@command("state", "prune")
def state_prune(
    state: State = None,
    env: Env = None,
    older: Annotated[
        str, Option("--older", metavar="TIME", help="Attempts that nothing happened to for this long.")
    ] = "90d",
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would be removed.")] = False,
    lock_timeout: LockTimeout = "0",
) -> None:
    """Remove old attempts with their output and files. Never what lives, or is the newest of a run."""
    from flowplan.commands import places, states

    states.prune(places.state_of(state, env), older, dry_run, lock_timeout)


@command("state", "migrate")
def state_migrate(
    from_: Annotated[str, Option("--from", metavar="FILE|URL", help="The state as it is now.")],
    to: Annotated[str, Option("--to", metavar="FILE|URL", help="Where it is to be.")],
    env: Env = None,
    lock_timeout: LockTimeout = "0",
) -> None:
    """Move a state into a database, or out of it. Nothing is lost, and what stays behind refuses to be used."""
    from flowplan.commands import places, states

    states.migrate(places.place(from_, environment=env).state, to, lock_timeout)


@command("state", "upgrade")
def state_upgrade(state: State = None) -> None:
    """Bring a state to the format of this flowplan. In a database, make the tables."""
    from flowplan.commands import places, states

    states.upgrade(places.place(state).state)


@command("state", "grants")
def state_grants(
    state: State = None,
    writer: Annotated[
        list[str] | None, Option("--writer", metavar="ROLE", help="Applies and plans. Repeatable.")
    ] = None,
    planner: Annotated[
        list[str] | None, Option("--planner", metavar="ROLE", help="Only plans; cannot write. Repeatable.")
    ] = None,
    reader: Annotated[
        list[str] | None,
        Option("--reader", metavar="ROLE", help="Only looks; cannot read the key of fingerprints. Repeatable."),
    ] = None,
) -> None:
    """Print the SQL that gives roles of a database what they need."""
    from flowplan.commands import places, states

    states.grants(places.place(state).state, writer or [], planner or [], reader or [])


@command("state", "moved")
def state_moved(state: State = None, env: Env = None, lock_timeout: LockTimeout = "0") -> None:
    """Declare that a copied state was moved: the original is gone."""
    from flowplan.commands import places, states

    states.moved(places.state_of(state, env), lock_timeout)


@command("state", "new-lineage")
def state_new_lineage(state: State = None, env: Env = None, lock_timeout: LockTimeout = "0") -> None:
    """Make a copied state one of its own. It manages nothing yet."""
    from flowplan.commands import places, states

    states.new_lineage(places.state_of(state, env), lock_timeout)


@command("state", "unlock")
def state_unlock(state: State = None, env: Env = None) -> None:
    """Release the lock of a process that no longer exists."""
    from flowplan.commands import places, states

    states.unlock(places.state_of(state, env))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; every error becomes a sentence on stderr."""
    code = _run(arguments)
    from flowplan.output import lost, silence

    if why := lost():
        code = code or complain(f"the output could not be written: {why}", 1)
        silence(sys.stderr)  # what it holds back could not be written at the end either
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        if shell := os.environ.get("_FLOWPLAN_COMPLETE"):
            from flowplan.commands import completion

            completion.answer(COMMANDS, shell, arguments)
            return 0
        call = understood(COMMANDS, arguments)
        if call is not None:
            return call() or 0
        from flowplan import typed

        return typed.run(COMMANDS, arguments, complain)
    except FlowplanError as error:
        return complain(str(error), error.exit_code)
    except interruption.Interrupted:
        return complain("interrupted", interruption.code())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UnicodeEncodeError as error:
        return complain(f"something given is not text in {error.encoding}: {error.reason}", 7)
    except ImportError:
        raise  # an installation that is not complete, which flowplan.__main__ tells without any module that may be missing
    except Exception as error:  # noqa: BLE001 - a defect of flowplan gets a sentence too
        return _defect(error)


def _defect(error: Exception) -> int:
    """Print where a defect of flowplan is, without the values at hand; return the exit code."""
    import traceback

    if interruption.told():
        return complain("interrupted", interruption.code())
    where = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, OSError) and where.name in ("write", "echo"):  # the help, written by typer
        return complain(f"the output could not be written: {error.strerror}", 1)
    if isinstance(error, RuntimeError) and where.name == "start" and Path(where.filename).name == "threading.py":
        return complain(
            "no further thread can be started: the process table of this host, or this user's part of it (ulimit -u), "
            "is full; what was started goes on, and the next apply goes on from there",
            1,
        )
    text = f"this is a defect of flowplan: {type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
    if os.environ.get("FLOWPLAN_DEBUG"):
        frames = traceback.extract_tb(error.__traceback__)
        text += "".join(f"\n  {Path(f.filename).name}:{f.lineno} {f.name}" for f in frames)
    return complain(f"{text}; the state is whole (FLOWPLAN_DEBUG=1 shows the way to it)", 1)


def complain(text: str, code: int, prefix: str = "error: ") -> int:
    """Print an error for the user and return the exit code."""
    from flowplan.output import Output
    from flowplan.schemas.text import harmless

    lines = text.splitlines() or [""]
    Output().note("\n".join([prefix + harmless(lines[0]), *(harmless(line) for line in lines[1:])]))
    return code
