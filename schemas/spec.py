"""The spec, version 1: frozen types that check a document, and the JSON Schema made from them."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, create_model, model_validator
from pydantic_core import core_schema

from flowplan.schemas import fields as f
from flowplan.schemas.notifications import NOTIFIED_OF
from flowplan.schemas.places import ENVIRONMENT_PATTERN, password_in

SCHEMA_ID = "https://flowplan.dev/schemas/spec-1.json"
SCHEMA_FILE = Path(__file__).with_name("spec.schema.json")
NO_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"
PLUGIN_LOADER = "pydantic.plugin._loader"
BUILT_IN_TYPES = ("process", "docker", "kubernetes", "slurm")

NAME_PATTERN = f"^[A-Za-z0-9_{f.BEYOND_ASCII}][A-Za-z0-9_.{f.BEYOND_ASCII}-]*$"
IDENTIFIER_PATTERN = "^[A-Za-z_][A-Za-z0-9_-]*$"
AXIS_WORDS = "a list, a range with from and to, or an expression"
AXIS_PATTERN = "^(?!index$)[A-Za-z_][A-Za-z0-9_-]*$"
PROJECT_PATTERN = "^[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"
ENV_PATTERN = "^[^=\\x00]+$"

NAMES = {
    NAME_PATTERN: "a name of letters, digits, _, - and .",
    IDENTIFIER_PATTERN: "a name of letters, digits, _ and -",
    AXIS_PATTERN: "a name of letters, digits, _ and - (and not index)",
    ENVIRONMENT_PATTERN: "a name of at most 63 letters, digits, -, _ and .",
    ENV_PATTERN: "a name without =",
}
"""Pattern of keys -> what they must be, in words."""


def named(pattern: str) -> dict[str, Any]:
    """Return the JSON Schema of keys that match one of the patterns."""
    return {"pattern": pattern, "errorMessage": f"must be {NAMES[pattern]}"}


RunName = Annotated[str, f.matching(NAME_PATTERN, NAMES[NAME_PATTERN])]
Identifier = Annotated[str, f.matching(IDENTIFIER_PATTERN, NAMES[IDENTIFIER_PATTERN])]
AxisName = Annotated[str, f.matching(AXIS_PATTERN, NAMES[AXIS_PATTERN])]
EnvironmentName = Annotated[str, f.matching(ENVIRONMENT_PATTERN, NAMES[ENVIRONMENT_PATTERN])]
EnvName = Annotated[str, f.matching(ENV_PATTERN, NAMES[ENV_PATTERN])]
AnyMap = dict[str, Any]
UNSET: Any = None

# What editors show beside each word.
PULL_POLICY = f.choice(
    {
        "Always": "Pull each time.",
        "IfNotPresent": "Pull when the image is missing.",
        "Never": "Never pull; the image must be there.",
    }
)
RERUN = f.choice(
    {
        "on_failure": "After a failure, and after a change.",
        "on_change": "Only after a change, also of the image that a tag means.",
        "always": "With every apply, unless it is still running.",
        "never": "Not even after a change.",
    }
)
REPLACE = f.choice(
    {
        "stop_first": "Stop the old run, then start the new one.",
        "start_first": "Start the new run, then stop the old one.",
        "after_finish": "Wait for the end of the old run.",
    }
)
PATCH = f.choice(
    {
        "add": "Set a value; in a list, insert it there, or after the last with -.",
        "remove": "Remove a value.",
        "replace": "Set a value that is there.",
        "move": "Take the value from another place.",
        "copy": "Copy the value of another place.",
        "test": "Fail unless the value is this one.",
    }
)
VARIABLE = f.choice(
    {
        "string": "Text.",
        "number": "A number.",
        "bool": "true or false.",
        "list": "A list of any values.",
        "map": "A mapping of any values.",
    }
)


def optional(description: str, **further: Any) -> Any:
    """Return a field that may be left out, with what editors show beside it."""
    return Field(None, description=description, **further)


class Part(BaseModel):
    """A mapping of the spec: its fields and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, populate_by_name=False)


class KeyRef(Part):
    """One key of an object that exists in the namespace of the run."""

    name: f.Filled = Field(description="Name of the Secret or ConfigMap.")
    key: f.Filled = Field(description="The key in it.")


def _one_of(*names: str) -> ConfigDict:
    """Return what says in JSON Schema that exactly one of these fields must be there."""
    return ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in names]})


TRACK = Field(True, description="false: another value neither starts the run again nor makes a reviewed plan stale.")


class Reference(Part):
    """Where a value comes from when the run starts: one place, and whether its value is tracked."""

    model_config = _one_of("from_env", "from_file", "secret_key_ref", "config_map_key_ref")

    from_env: f.Filled = Field("", description="A variable of the environment of the machine that applies.")
    from_file: f.Filled = Field("", description="A file on the machine that applies, relative to the spec.")
    secret_key_ref: KeyRef = Field(UNSET, description="A key of a Secret; Kubernetes only.")
    config_map_key_ref: KeyRef = Field(UNSET, description="A key of a ConfigMap; Kubernetes only.")
    track: f.PlainFlag = TRACK

    def model_post_init(self, context: Any) -> None:
        given = self.model_fields_set - {"track"}
        if len(given) != 1:
            raise f.fault("must be exactly one of from_env, from_file, secret_key_ref, config_map_key_ref")
        if "track" in self.model_fields_set and not given & {"from_env", "from_file"}:
            raise f.fault(f"takes no track: the value behind {given.pop()} is not read by flowplan, and never tracked")


class SecretReference(Part):
    """Where a secret comes from while applying: one place, and whether its value is tracked."""

    model_config = _one_of("from_env", "from_file")

    from_env: f.Filled = Field("", description="A variable of the environment of the machine that applies.")
    from_file: f.Filled = Field("", description="A file on the machine that applies, relative to the spec.")
    track: f.PlainFlag = TRACK

    def model_post_init(self, context: Any) -> None:
        if len(self.model_fields_set - {"track"}) != 1:
            raise f.fault("must be exactly one of from_env, from_file")


class EnvFile(Part):
    """A file of variables, and what its values are."""

    path: f.Filled = Field(description="The file, relative to the spec.")
    sensitive: f.PlainFlag = Field(
        True, description="false: the values are no secrets; plans show them like those of `env`."
    )
    track: f.PlainFlag = TRACK

    def model_post_init(self, context: Any) -> None:
        if not self.track and not self.sensitive:
            raise f.fault("track: false is for secrets: what is not sensitive is part of what the run is")


class Range(Part):
    """An arithmetic range of numbers or dates; its end is part of it."""

    from_: f.Scalar = Field(alias="from", description="First value: a number, or a date such as 2026-11-01.")
    to: f.Scalar = Field(description="Last value (included when a step hits it).")
    step: f.Scalar = Field(UNSET, description="Distance: a number, or for dates a number of days or 1d. Default 1.")


class RetryDelay(Part):
    """A wait before each retry that grows."""

    initial: f.Duration = Field(examples=["30s"], description="The wait before the first retry.")
    factor: f.Factor = Field(2, description="How many times as long each further wait is.")
    max: f.Duration | None = optional("No wait is longer.", examples=["10m"])


class Resources(Part):
    """What the run may use."""

    cpu: f.Quantity | None = optional("CPUs: 2, 0.5 or 500m.", examples=[2, "500m"])
    memory: f.Size | None = optional("Memory: 512Mi, 16Gi or 2g.", examples=["512Mi", "16Gi"])
    gpu: f.Gpus | None = optional("Number of GPUs; all where the engine can (Docker).")


class RegistryCredentials(Part):
    """A login at an image registry, used only while pulling."""

    username: f.Filled = Field(description="User name.")
    password: Annotated[Any, f.OneOf(f.Password, mapping=SecretReference)] = Field(
        description="Password: a string, from_env or from_file."
    )
    registry_url: f.Filled | None = optional("Address of the registry; default: that of the image.")
    reauth: f.Flag | None = optional("Log in again even if the client believes to be logged in.")


class PatchOperation(Part):
    """One operation of RFC 6902."""

    op: Annotated[str, PATCH] = Field(description="The operation.")
    path: f.Text = Field(description="JSON Pointer into the Job manifest.")
    from_: f.Text = Field(UNSET, alias="from", description="JSON Pointer, for move and copy.")
    value: Any = optional("The value, for add, replace and test.")


class KubernetesBlock(Part):
    """What only Kubernetes knows."""

    namespace: f.Filled | None = optional("Namespace; default: the provider's, then the context's.")
    service_account_name: f.Filled | None = optional("Service account of the pods.")
    image_pull_secrets: list[f.Filled] | None = optional("Names of Secrets used for pulling.")
    finished_job_ttl: f.Duration | None = optional(
        "How long the cluster keeps the finished Job; 0 counts.", examples=["1h"]
    )
    job: Annotated[Any, f.OneOf(f.Filled, mapping=AnyMap)] | None = optional(
        "A base Job manifest, whole or partial: a file, or inline.", examples=["job.yaml"]
    )
    customizations: Annotated[Any, f.OneOf(f.Filled, items=list[PatchOperation])] | None = optional(
        "RFC 6902 operations on the manifest, applied last: a list, or a file."
    )


class DockerBlock(Part):
    """What only Docker knows."""

    networks: list[f.Filled] | None = optional("Networks to join; the first one at creation.", examples=[["warehouse"]])
    network_mode: f.Filled | None = optional("Network mode (host, none, container:NAME); excludes networks.")
    extra_hosts: Annotated[Any, f.OneOf(mapping=dict[f.Plain, f.Filled], items=list[f.Filled])] | None = optional(
        "Additional host names: name -> address, or a list of name:address.", examples=[{"db": "10.0.0.5"}]
    )
    volumes: list[f.Filled] | None = optional(
        "Volumes: name:/path, /host:/path[:ro|rw], /path.", examples=[["scratch:/scratch"]]
    )
    mem_limit: f.Size | None = optional("Memory limit: 512m, 1.5g, bytes.", examples=["512m", "2g"])
    memswap_limit: f.SwapSize | None = optional("Limit of memory and swap together; -1 is unlimited.")
    privileged: f.Flag | None = optional("Give extended privileges to the container.")
    auto_remove: f.Flag | None = optional("Remove the container when the run has ended and is recorded.")
    registry_credentials: RegistryCredentials | None = optional("A login at the image's registry.")
    create_options: AnyMap | None = optional("Any other field of the body of POST /containers/create.")


class ProcessBlock(Part):
    """What only local processes know."""

    inherit_env: Annotated[Any, f.OneOf(f.FlagBesideNames, items=list[f.Filled], word="true, false")] | None = optional(
        "Which variables of flowplan's environment the process sees: true (default), false, names."
    )
    log_limit: f.Size | None = optional("Bytes of output that are kept, the newest; default 64Mi.")


class SlurmBlock(Part):
    """What only Slurm knows."""

    partition: f.Filled | None = optional("Partition, or several: a,b; default: that of the cluster.")
    account: f.Filled | None = optional("Account that is charged; default: that of the user.")
    qos: f.Filled | None = optional("Quality of service.")
    requeue: f.Flag | None = optional(
        "Let Slurm start the job again after a node failure or preemption; default false."
    )
    array: f.Flag | None = optional(
        "Submit the cells of a matrix that can start at the same time as the tasks of one array; default false: a job for each.",
    )
    options: dict[f.Plain, f.ScalarOrNull] | None = optional(
        "Any other option of sbatch by its long name; true for one without a value.",
        examples=[{"constraint": "gpu80", "nodes": 2, "exclusive": True}],
    )


AxisValues = Annotated[Any, f.OneOf(f.Expression, mapping=Range, items=list[f.Scalar], words=AXIS_WORDS)]
Names = Annotated[Any, f.OneOf(f.FilledBesideList, items=list[f.Filled])]
EnvFiles = Annotated[
    Any, f.OneOf(f.FilledBesideList, mapping=EnvFile, items=list[Annotated[Any, f.OneOf(f.Filled, mapping=EnvFile)]])
]
Cell = dict[AxisName, f.Scalar]
Command = Annotated[Any, f.OneOf(f.TextBesideList, items=list[f.Scalar])]


class Matrix(Part):
    """Axes (lists, or ranges), and single cells to add or to leave out."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"propertyNames": named(AXIS_PATTERN)})
    __pydantic_extra__: dict[str, AxisValues]

    include: list[Cell] | None = optional("Cells to add, or values to add to the cells that they match.")
    exclude: list[Cell] | None = optional("Cells to leave out: those with all of these values.")

    def model_post_init(self, context: Any) -> None:
        for name in self.model_extra or ():
            if name == "index":
                raise f.fault("the axis name index is taken, by ${each.index}")
            if not re.search(AXIS_PATTERN, name):
                raise f.fault(f"the axis name {name} must be of letters, digits, _ and -")


SNIPPETS: dict[str, Any] = {
    "a local process": {"provider": "process", "command": ["${1:echo}", "${2:hello}"]},
    "a container": {"provider": "docker", "image": "${1:busybox:1.35}", "command": ["${2:echo}", "${3:hello}"]},
    "a Kubernetes Job": {
        "provider": "kubernetes",
        "image": "${1:busybox:1.35}",
        "command": ["${2:echo}", "${3:hello}"],
    },
    "a job of Slurm": {"provider": "slurm", "command": ["${1:echo}", "${2:hello}"], "timeout": "${3:10m}"},
}
"""What editors offer for a new run; ``${1:...}`` is where the cursor goes."""


class Run(Part):
    """One run, or the defaults of all runs."""

    model_config = ConfigDict(
        json_schema_extra={"defaultSnippets": [{"label": name, "body": body} for name, body in SNIPPETS.items()]}
    )

    extends: f.Plain | None = optional("Another run, whose fields stand below those of this one.", examples=["train"])
    provider: f.Filled | None = optional("Entry of `providers`, or a built-in one: process, docker, kubernetes, slurm.")
    description: f.Text | None = optional("For people.")
    image: f.Filled | None = optional("Image of the container.", examples=["python:3.12-slim"])
    image_pull_policy: Annotated[str, PULL_POLICY] | None = optional(
        "Default: Always for the tag latest or none, else IfNotPresent."
    )
    entrypoint: Command | None = optional("Replaces the entrypoint of the image.")
    command: Command | None = optional(
        "Arguments of the entrypoint: a list, or a string that is split as a shell would, without a shell.",
        examples=[["python", "train.py", "--epochs", "3"], ["sh", "-c", "sort *.csv > all.csv"]],
    )
    env: dict[EnvName, Annotated[Any, f.OneOf(f.ScalarOrNull, mapping=Reference, word="a scalar")]] | None = optional(
        "Environment: scalars become strings, null removes an inherited variable, or a reference.",
        examples=[{"MODE": "nightly", "PASSWORD": {"from_env": "REPORT_PASSWORD"}}],
    )
    env_file: EnvFiles | None = optional(
        "Files of variables below `env`, relative to the spec; values are secrets unless said otherwise.",
        examples=["etl.env", [{"path": "etl.env", "sensitive": False}]],
    )
    labels: dict[f.Plain, f.ScalarOrNull] | None = optional("Labels of the object.", examples=[{"team": "data"}])
    annotations: dict[f.Plain, f.ScalarOrNull] | None = optional("Annotations of the object.")
    name: f.Filled | None = optional("Name of the object; made legal. Default: from project and address.")
    working_dir: f.Filled | None = optional("Working directory; of a process relative to the spec.", examples=["jobs"])
    resources: Resources | None = optional("CPU, memory and GPUs.", examples=[{"cpu": 2, "memory": "4Gi"}])
    needs: Names | None = optional(
        "Addresses of runs that must succeed first: one, or a list.", examples=[["extract"], "extract"]
    )
    matrix: Matrix | None = optional(
        "One run for each combination of the axes' values.",
        examples=[{"shard": [1, 2, 3]}, {"day": {"from": "2026-11-01", "to": "2026-11-30"}}],
    )
    max_parallel: Annotated[int, f.at_least(1)] | None = optional(
        "How many cells of the matrix may run at once.", examples=[4]
    )
    timeout: f.Duration | None = optional("Limit of the run time.", examples=["90s", "10m", "2h"])
    start_timeout: f.Duration | None = optional("Limit of the time before the run starts.", examples=["5m"])
    retries: Annotated[int, f.at_least(0)] | None = optional("How often the engine tries again.", examples=[3])
    retry_delay: Annotated[Any, f.OneOf(f.DurationBesideMapping, mapping=RetryDelay)] | None = optional(
        "The wait before each retry: a duration, or one that grows. Kubernetes has its own.",
        examples=["30s", {"initial": "30s", "factor": 2, "max": "10m"}],
    )
    grace_period: f.Duration | None = optional("Time between TERM and KILL; default 30s.", examples=["30s"])
    stream_output: f.Flag | None = optional("Print the output while following; default true.")
    rerun: Annotated[str, RERUN] | None = optional("When a finished run is started again; default on_failure.")
    rerun_with: Annotated[str, f.choice({"needs": "With each run that it needs."})] | None = optional(
        "needs: start again whenever a run that it needs has started again."
    )
    replace: Annotated[str, REPLACE] | None = optional("How a live run is replaced; default stop_first.")
    keep: Annotated[str, f.choice({"finished": "Leave a cell that has ended as it is: record and object."})] | None = (
        optional("finished: cells that have ended stay when they leave the matrix; without it they are destroyed.")
    )
    protect: f.Protect | None = optional("Refuse to interrupt the run: active (while live), always, false.")
    ignore_changes: list[f.Filled] | None = optional("JSON Pointers into the objects that are not compared.")
    triggers: dict[f.Plain, f.ScalarOrNull] | None = optional("Values whose change starts the run again.")
    template: f.Filled | None = optional("File with a base job template.")
    variables: AnyMap | None = optional("Values of the template's variables.")
    kubernetes: KubernetesBlock | None = optional("Only for runs on Kubernetes.")
    docker: DockerBlock | None = optional("Only for runs on Docker.")
    process: ProcessBlock | None = optional("Only for local processes.")
    slurm: SlurmBlock | None = optional("Only for jobs of Slurm.")


class VariableSpec(Part):
    """A variable of the spec."""

    type: Annotated[str, VARIABLE] = Field("string", description="Type of the value; default string.")
    default: Any = optional("Value when none is given.")
    required: f.PlainFlag = Field(UNSET, description="Whether a value must be given; default: if there is no default.")
    sensitive: f.PlainFlag = Field(False, description="Never show the value, nor any string that it enters.")
    description: f.Text = Field("", description="For people.")
    enum: list[Any] = Field(UNSET, description="The values that are allowed.")
    pattern: f.Text = Field(UNSET, description="Regular expression that a string must match in full.")


class DockerProvider(Part):
    """A Docker Engine."""

    type: f.Plain | None = optional("docker; default: the name of the entry.")
    host: f.Filled | None = optional("Address of the engine, such as unix:///var/run/docker.sock.")
    context: f.Filled | None = optional("Docker context to use.")


class KubernetesProvider(Part):
    """A Kubernetes cluster."""

    type: f.Plain | None = optional("kubernetes; default: the name of the entry.")
    kubeconfig: Annotated[Any, f.OneOf(f.Filled, mapping=AnyMap)] | None = optional(
        "A kubeconfig: a path, or inline. Default: KUBECONFIG, then ~/.kube/config."
    )
    context: f.Filled | None = optional("Context of the kubeconfig; default: its current one.")
    namespace: f.Filled | None = optional("Namespace of runs that name none.")
    in_cluster: f.Flag | None = optional("Use the service account of the pod that flowplan runs in.")
    cluster_id: f.Filled | None = optional("Identity of the cluster, where kube-system may not be read.")


class ProcessProvider(Part):
    """This machine."""

    type: f.Plain | None = optional("process; default: the name of the entry.")


class SlurmProvider(Part):
    """A Slurm cluster."""

    type: f.Plain | None = optional("slurm; default: the name of the entry.")
    ssh: f.Filled | None = optional(
        "Host on which Slurm's commands are, as ssh is given it; default: this one.", examples=["me@login.example.org"]
    )
    directory: f.Filled | None = optional(
        "Where scripts and outputs of jobs are, for the nodes too; default ~/.local/share/flowplan/slurm."
    )


class PluginProvider(Part):
    """A provider that somebody else installed; its settings are checked by itself."""

    model_config = ConfigDict(extra="allow")

    type: f.Plain | None = optional("The provider type; default: the name of the entry.")


class Move(Part):
    """A run that has a new address."""

    from_: f.Filled = Field(alias="from", description="The address that the state knows.")
    to: f.Filled = Field(description="The address in this spec.")


class Policy(Part):
    """A rule that concrete objects must satisfy."""

    name: f.Filled = Field(UNSET, description="Name of the rule.")
    description: f.Text = Field(UNSET, description="Why; shown when it is violated.")
    types: list[f.Filled] = Field(UNSET, description="Provider types that it is about; default all.")
    schema_: AnyMap = Field(alias="schema", description="JSON Schema that the objects of every run must satisfy.")


class ByType:
    """Metadata of the mapping of provider entries: an entry's type, by default its key, says which settings it takes."""

    def __init__(self, entries: Mapping[str, type[BaseModel]]) -> None:
        self.entries = entries

    @staticmethod
    def kind(entry: Any) -> str:
        """Return the tag of an entry; the tags never reach the user."""
        return f"{f.TAG}{entry.get('type')}" if isinstance(entry, dict) else f"{f.TAG}process"

    @staticmethod
    def typed(entries: Any) -> Any:
        """Return the entries with the default of ``type`` filled in."""
        if not isinstance(entries, dict):
            return entries
        return {k: {"type": k, **v} if isinstance(v, dict) else v for k, v in entries.items()}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        choices = {f"{f.TAG}{name}": handler.generate_schema(model) for name, model in self.entries.items()}
        entry = core_schema.tagged_union_schema(choices, self.kind)
        entries = core_schema.dict_schema(handler.generate_schema(RunName), entry)
        return core_schema.no_info_before_validator_function(self.typed, entries)


PROVIDER_ENTRIES: dict[str, type[BaseModel]] = {
    "process": ProcessProvider,
    "docker": DockerProvider,
    "kubernetes": KubernetesProvider,
    "slurm": SlurmProvider,
}


def _state(value: Any) -> str:
    if not isinstance(value, str) or not value:
        return f"must be the path of a file or a postgresql:// URL, not {f.kind_of(value)}"
    return "must hold no password: it is in PGPASSWORD, ~/.pgpass or a service file" if password_in(value) else ""


State = Annotated[str, f.Checked(_state, {"type": "string", "minLength": 1}, expression=False)]


class Environment(Part):
    """What differs in one environment; it is merged over the spec."""

    variables: AnyMap | None = optional("Values of variables by name, or parts of their declarations.")
    providers: dict[RunName, AnyMap | None] | None = optional("Settings of providers; null removes one.")
    defaults: Run | None = optional("Merged over the defaults.")
    runs: dict[RunName, Run | None] | None = optional("Runs, or what differs in them; null removes a run.")
    policies: list[Annotated[Any, f.OneOf(f.Plain, mapping=Policy)]] | None = optional(
        "In place of the policies of the spec."
    )
    state: State | None = optional("Where the state of this environment is.")
    moved: list[Move] | None = optional("In place of the list of the spec.")
    removed: list[f.Plain] | None = optional("In place of the list of the spec.")
    description: f.Text | None = optional("For people.")


def _version(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 1:
        return ""
    return f"must be 1, the version of the spec, not {f.kind_of(value)}"


class Notification(Part):
    """Who is told of what happens: a webhook, or a service that apprise knows."""

    webhook: Annotated[Any, f.OneOf(f.Filled, mapping=SecretReference)] | None = optional(
        "URL that gets a JSON document by POST; a reference where the URL is a secret.",
        examples=[{"from_env": "NIGHTLY_WEBHOOK"}],
    )
    apprise: SecretReference | None = optional(
        "Where an apprise URL is: mail, chats, pagers.", examples=[{"from_file": "chat.url"}]
    )
    secret: SecretReference | None = optional(
        "Where the key is with which the document is signed (X-Flowplan-Signature-256)."
    )
    on: list[Annotated[str, f.choice(NOTIFIED_OF)]] | None = optional(
        "Of what; default failed, timed_out, lost and recovered.", examples=[["failed", "timed_out", "lost"]]
    )
    waiting_longer_than: f.Duration | None = optional(
        "How long an approved run may wait before it is told; default 1h."
    )

    def model_post_init(self, context: Any) -> None:
        if (self.webhook is None) == (self.apprise is None):
            raise f.fault("must have exactly one of webhook, apprise")
        if self.secret is not None and self.webhook is None:
            raise f.fault("secret belongs to a webhook")


class Spec(Part):
    """A flowplan spec: one project and its runs."""

    flowplan: Annotated[int, f.Checked(_version, {"const": 1}, expression=False)] = Field(
        description="Version of the spec: 1."
    )
    project: Annotated[str, f.matching(PROJECT_PATTERN, "a name of at most 63 letters, digits, -, _ and .")] = Field(
        description="Name of the project; the state belongs to it."
    )
    description: f.Text | None = optional("For people.")
    include: Names | None = optional(
        "Files with runs, variables, defaults ... that stand below this one.", examples=["common.yaml"]
    )
    environments: dict[EnvironmentName, Environment | None] | None = optional(
        "What differs in each environment, by name.", examples=[{"dev": {"variables": {"tag": "latest"}}}]
    )
    state: State | None = optional(
        "Where the state is: a file, or a database without the password; --state and FLOWPLAN_STATE win.",
        examples=["postgresql://db.example.org/flowplan?sslmode=verify-full"],
    )
    variables: dict[Identifier, VariableSpec] = Field({}, description="Variables: ${var.NAME}.")
    providers: Annotated[dict[str, Any], ByType(PROVIDER_ENTRIES)] = Field(
        {}, description="Settings of the built-in providers, and aliases."
    )
    defaults: Run | None = optional("Merged under every run.")
    runs: dict[RunName, Run] = Field(description="The runs by name.")
    moved: list[Move] = Field([], description="Runs that have a new address; nothing happens to them.")
    removed: list[f.Plain] = Field([], description="Addresses to forget: nothing is stopped or deleted.")
    policies: list[Annotated[Any, f.OneOf(f.Plain, mapping=Policy)]] = Field(
        [], description="Rules for the concrete objects: files, or inline."
    )
    notify: list[Notification] = Field([], description="Who is told of failures and other events.")

    @model_validator(mode="before")
    @classmethod
    def _without_extensions(cls, value: Any) -> Any:
        """Leave out keys that start with ``x-``: they are the user's own, for anchors."""
        if not isinstance(value, dict) or not any(key.startswith("x-") for key in value):
            return value
        return {k: v for k, v in value.items() if not k.startswith("x-")}


@cache
def _extended(blocks: tuple[tuple[str, type[BaseModel] | None], ...]) -> type[Spec]:
    extra: dict[str, Any] = {
        name: ((model or AnyMap) | None, optional(f"Only for runs of the provider type {name}."))
        for name, model in blocks
    }
    run = create_model("Run", __base__=Run, **extra)
    entries = PROVIDER_ENTRIES | {name: PluginProvider for name, _ in blocks}
    providers = Annotated[dict[str, Any], ByType(entries)]
    overlaid: dict[str, Any] = {
        "runs": (dict[RunName, run | None] | None, Environment.model_fields["runs"]),  # type: ignore[valid-type]
        "defaults": (run | None, Environment.model_fields["defaults"]),
    }
    overlay = create_model("Environment", __base__=Environment, **overlaid)
    fields: dict[str, Any] = {
        "environments": (
            dict[EnvironmentName, overlay | None] | None,  # type: ignore[valid-type]
            Spec.model_fields["environments"],
        ),
        "runs": (dict[RunName, run], Field(description="The runs by name.")),  # type: ignore[valid-type]
        "defaults": (run | None, optional("Merged under every run.")),
        "providers": (providers, Field({}, description="Settings of the providers, and aliases.")),
    }
    return create_model("Spec", __base__=Spec, **fields)


@contextmanager
def without_plugins() -> Iterator[None]:
    """Disable plugins of pydantic while a validator is built, also those that child processes would inherit."""
    former, loader = os.environ.get(NO_PLUGINS), sys.modules.get(PLUGIN_LOADER)
    os.environ[NO_PLUGINS] = "__all__"
    # Loading what would look for them takes longer than the rest: it reads the metadata of packages.
    sys.modules[PLUGIN_LOADER] = cast("ModuleType", SimpleNamespace(get_plugins=lambda: ()))
    try:
        yield
    finally:
        sys.modules.pop(PLUGIN_LOADER)
        if loader is not None:
            sys.modules[PLUGIN_LOADER] = loader
        if former is None:
            del os.environ[NO_PLUGINS]
        else:
            os.environ[NO_PLUGINS] = former


def spec_model(provider_types: Mapping[str, type[BaseModel] | None] | None = None) -> type[Spec]:
    """Return the type of a spec when provider types beyond the built-in ones are installed.

    Args:
        provider_types: provider type -> model of its block in a run, None for a block of any content.
    """
    blocks = {k: v for k, v in (provider_types or {}).items() if k not in BUILT_IN_TYPES}
    return _extended(tuple(sorted(blocks.items(), key=lambda item: item[0]))) if blocks else Spec


def json_schema(provider_types: Mapping[str, type[BaseModel] | None] | None = None) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a spec, with a title and a description for every field."""
    model = spec_model(provider_types)
    schema = _tidied(model.model_json_schema(by_alias=True))
    for part in [schema, *schema["$defs"].values()]:
        for name, field in part.get("properties", {}).items():
            field.setdefault("title", name.replace("_", " ").title())
        title = re.sub("(?:Block|Spec)$", "", part["title"]) or part["title"]
        part["title"] = re.sub("(?<=[a-z])(?=[A-Z])", " ", title)
    schema["required"].remove("runs")  # they may come from a file that is included
    schema["anyOf"] = [{"required": ["runs"]}, {"required": ["include"]}]
    schema["patternProperties"] = {"^x-": {"description": "Your own; for anchors."}}
    entries = PROVIDER_ENTRIES | dict.fromkeys(provider_types or (), PluginProvider)
    types = f.words_schema({name: str(entry.__doc__) for name, entry in entries.items()})
    run = schema["$defs"]["Run"]["properties"]
    told = {key: run["provider"][key] for key in ("title", "description")}
    run["provider"] = {**told, "oneOf": [_or_null(types), {**f.FILLED_SCHEMA, "not": {"enum": types["enum"]}}]}
    schema["properties"]["providers"] |= _providers_schema(entries, types)
    # A run may name entries of `providers`. Where there are none, editors can tell that its provider is unknown.
    known = {"properties": {"provider": {"oneOf": [_or_null(types), f.EXPRESSION_SCHEMA]}}}
    schema["if"] = {"not": {"anyOf": [{"required": [name]} for name in ("providers", "include", "environments")]}}
    schema["then"] = {"properties": {"defaults": known, "runs": {"additionalProperties": known}}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}


def _providers_schema(entries: Mapping[str, type[BaseModel]], types: dict[str, Any]) -> dict[str, Any]:
    settings = {name: {"$ref": f"#/$defs/{entry.__name__}"} for name, entry in entries.items()}
    typed: dict[str, Any] = {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {**types, "title": "Type", "description": "The provider type."}},
        "allOf": [{"if": {"properties": {"type": {"const": t}}}, "then": settings[t]} for t in settings],
    }
    by_key = {t: {"if": {"required": ["type"]}, "then": typed, "else": settings[t], "type": "object"} for t in settings}
    return {"type": "object", "propertyNames": named(NAME_PATTERN), "properties": by_key, "additionalProperties": typed}


def _tidied(schema: Any) -> Any:
    """Return a schema as editors show it best, which means the same.

    A default of null is left out. Keys that do not match a pattern are refused. The choices of a field are one flat
    ``oneOf``, or none: for each one of an ``anyOf`` an editor shows the title again, and "wrong type" for most mistakes.
    """
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidied = {k: _tidied(v) for k, v in schema.items() if not (k == "default" and v is None)}
    if isinstance(tidied.get("patternProperties"), dict) and "properties" not in tidied:
        (pattern, values), *_ = tidied.pop("patternProperties").items()
        tidied |= {"propertyNames": named(pattern), "additionalProperties": values}
    choices = tidied.pop("anyOf", None) or tidied.pop("oneOf", None) or []
    members = [member for c in choices for member in (c["oneOf"] if c.keys() == {"oneOf"} else [c])]
    if members[1:] and members[-1] == {"type": "null"} and "$ref" not in members[0]:
        members = [_or_null(members[0]), *members[1:-1]]
    return {**members[0], **tidied} if len(members) == 1 else {**tidied, "oneOf": members} if members else tidied


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that null matches too."""
    if "enum" in schema:
        told = [*schema["enumDescriptions"], "Without what `defaults` say."]
        return {**schema, "enum": [*schema["enum"], None], "enumDescriptions": told}
    return {**schema, "type": [*f.as_list(schema["type"]), "null"]}


def schema_text(provider_types: Mapping[str, type[BaseModel] | None] | None = None) -> str:
    """Return the text of ``spec.schema.json``."""
    return json.dumps(json_schema(provider_types), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
