"""Deployments of a prefect.yaml as runs: the work pool's base job template is the template of the run."""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from flowplan.planner.desired.template_file import load_template
from flowplan.planner.importing import (
    ENVIRONMENT,
    NO_SCHEDULE,
    Around,
    Expression,
    Hidden,
    Imported,
    Remark,
    Secret,
    Source,
    jobs,
    run_name,
    shapes,
)
from flowplan.planner.importing.secrets import looks_secret
from flowplan.planner.manifests.job_defaults import without_defaults
from flowplan.planner.manifests.job_draft import FIRST, POD, value_at
from flowplan.planner.manifests.names import is_own_label
from flowplan.schemas.documents import Document, parse, scalar_text
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.quantities import size
from flowplan.schemas.runs import Json, Objects
from flowplan.schemas.sources import Position, SourceMap

_CALL = (
    "import json, sys; from prefect.flows import load_flow_from_entrypoint; "
    "load_flow_from_entrypoint(sys.argv[1])(**json.loads(sys.argv[2]))"
)
"""Calls a flow with its parameters, as a worker's ``prefect flow-run execute`` does after it has asked the server."""
_MAPPING, _TEXT, _LIST = (dict, "a mapping"), (str, "a text"), (list, "a list")
_NUMBER, _SCALAR = ((str, int, float), "a text or a number"), ((str, int, float, type(None)), "a text or a number")
_SHAPES: shapes.Shapes = {
    "deployments/*": _MAPPING,
    **{f"deployments/*/{key}": _TEXT for key in ("name", "entrypoint", "description", "work_pool/name")},
    **{f"deployments/*/{key}": _MAPPING for key in ("parameters", "work_pool", "work_pool/job_variables")},
    **{f"deployments/*/work_pool/job_variables/{key}": _MAPPING for key in ("env", "labels")},
    **{f"deployments/*/{key}": _LIST for key in ("pull", "schedules")},
    "deployments/*/pull/*": _MAPPING,
    **{f"deployments/*/work_pool/job_variables/{key}/*": _SCALAR for key in ("env", "labels")},
    **{f"deployments/*/work_pool/job_variables/{key}": _LIST for key in ("volumes", "networks")},
    **{f"deployments/*/work_pool/job_variables/{key}/*": _TEXT for key in ("volumes", "networks")},
    **{
        f"deployments/*/work_pool/job_variables/{key}": _TEXT
        for key in ("image", "network_mode", "working_dir", "name")
    },
    **{f"deployments/*/work_pool/job_variables/{key}": _NUMBER for key in ("mem_limit", "memswap_limit")},
    "deployments/*/work_pool/job_variables/command": ((str, list), "a text or a list"),
    "deployments/*/work_pool/job_variables/command/*": _NUMBER,
    "pull": _LIST,
    "pull/*": _MAPPING,
}
_OF_SERVER = {
    "concurrency_limit": "a run that is still live is never started a second time",
    "schedule": NO_SCHEDULE,
    "schedules": NO_SCHEDULE,
    "tags": "labels of the run are labels on the engine",
    "triggers": "what hears of the event calls `flowplan apply --yes`",
    "version": "the history has each plan that was applied",
    "work_queue_name": "runs start when they are applied",
}
"""What a deployment tells Prefect's server, and what stands for it here."""
_NEITHER = (
    "build",
    "push",
    "enforce_parameter_schema",
    "flow_name",
    "paused",
    "public",
    "definitions",
    "is_schedule_active",
)
_RUN_FIELDS = ("image", "env", "labels", "name", "image_pull_policy", "stream_output", "working_dir")
_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_STAND_IN = "1"
_SET_DIRECTORY = "prefect.deployments.steps.set_working_directory"


def is_prefect(value: Json) -> bool:
    """Return whether a document is a prefect.yaml."""
    return isinstance(value, dict) and isinstance(value.get("deployments"), list)


def imported(documents: Sequence[Document], around: Around) -> Source:
    """Return the runs of all deployments.

    Raises:
        InvalidInput: the file is none that Prefect would take, or the template of a work pool is not given.
    """
    tree, sources = documents[0].value, documents[0].sources
    if faults := shapes.faults(tree, sources, _SHAPES):
        raise InvalidInput(faults)
    values = _Values()
    runs = [
        _Deployment(values.both(one), tree.get("pull") or [], index, sources, around).run()
        for index, one in enumerate(tree["deployments"])
    ]
    told = "flowplan builds and pushes nothing: call the same steps before"
    remarks = [
        Remark(key, "is a step of `prefect deploy`", told, sources.key((key,)), lost=False)
        for key in ("build", "push")
        if tree.get(key)
    ]
    return Source(
        runs, remarks, run_name(str(tree.get("name") or "")) if tree.get("name") else "", values.declared, values.given
    )


class _Values:
    """What stands in ``{{ }}``, which Prefect fills in from its steps, its server or the environment, as variables."""

    def __init__(self) -> None:
        self.declared: dict[str, dict[str, Json]] = {}
        self.given: dict[str, str] = {}

    def both(self, value: Json) -> tuple[Any, Json]:
        """Return a value as the spec writes it, with expressions, and as it is in the end."""
        if isinstance(value, dict):
            pairs = {key: self.both(child) for key, child in value.items()}
            return {key: one for key, (one, _) in pairs.items()}, {key: other for key, (_, other) in pairs.items()}
        if isinstance(value, list):
            items = [self.both(child) for child in value]
            return [one for one, _ in items], [other for _, other in items]
        if not isinstance(value, str) or not _PLACEHOLDER.search(value):
            return value, value
        written = Expression(_PLACEHOLDER.sub(lambda found: f"${{var.{self._name(found[1])}}}", value))
        return written, _PLACEHOLDER.sub(_STAND_IN, value)

    def _name(self, text: str) -> str:
        bare = text.removeprefix("$").removeprefix("prefect.blocks.").removeprefix("prefect.variables.")
        name = re.sub(r"\W+", "_", bare).strip("_") or "value"
        name = f"_{name}" if name[0].isdigit() else name
        secret = text.startswith("prefect.blocks.secret") or looks_secret(name, "x")
        self.declared[name] = (
            {"sensitive": True, "description": f"{{{{ {text} }}}}"} if secret else {"description": f"{{{{ {text} }}}}"}
        )
        self.given[name] = _STAND_IN
        return name


class _Deployment:
    """One deployment; ``directory`` is where its flow runs, by its pull steps."""

    def __init__(self, both: tuple[Any, Any], pull: list[Any], index: int, sources: SourceMap, around: Around) -> None:
        self.written, self.final = both
        self.sources, self.around, self.base = sources, around, ("deployments", index)
        self.pull = self.final.get("pull") or pull
        self.remarks: list[Remark] = []
        self.secrets: dict[Secret, Hidden] = {}
        found = [step.get(_SET_DIRECTORY) for step in self.pull]
        self.directory = str(
            next((one["directory"] for one in found if isinstance(one, dict) and "directory" in one), "")
        )

    def run(self) -> Imported:
        """Return the run, and what a worker of the pool would make of the deployment."""
        name, entrypoint = self.final.get("name"), self.final.get("entrypoint")
        if not name or not entrypoint:
            raise InvalidInput([self.sources.at_value(self.base, "a deployment needs name and entrypoint")])
        pool = self.final.get("work_pool") or {}
        template = self._template(pool)
        variables, final = (
            (side.get("work_pool") or {}).get("job_variables") or {} for side in (self.written, self.final)
        )
        kind = _type(template)
        command = self._command(final)
        fields: dict[str, Any] = {"provider": kind, "command": command[0]}
        if text := self.written.get("description"):
            fields["description"] = text
        if template:
            fields["template"] = self.around.templates[self._pool(pool)][0]
        fields |= {key: value for key, value in variables.items() if key in _RUN_FIELDS and value is not None}
        if self.directory:
            fields["working_dir"] = self.directory
        if env := variables.get("env"):
            fields["env"] = {key: self._variable(key, value) for key, value in env.items()}
        rest = {key: value for key, value in variables.items() if key not in (*_RUN_FIELDS, "command")}
        if rest:
            fields["variables"] = rest
        self._told()
        at = self.sources.key(self.base)
        wanted = _WANTED[kind](_filled(template, {**final, "command": command[1]}, self), self)
        return Imported(
            run_name(name),
            f'deployment "{name}"',
            fields,
            wanted,
            partial(_PLAIN[kind], wanted[next(iter(wanted))]),
            lambda pointer: at,
            self.remarks,
            self.secrets,
        )

    def fault(self, message: str, hint: str = "") -> InvalidInput:
        """Return the error of a deployment that cannot be imported."""
        return InvalidInput([self.sources.at_value(self.base, message, hint)])

    def _pool(self, pool: Mapping[str, Any]) -> str:
        name = str(pool.get("name", ""))
        return name if name in self.around.templates else ""

    def _template(self, pool: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the base job template of the work pool; {} for a deployment without a pool, which runs as a process."""
        if not pool.get("name"):
            return {}
        given = self.around.templates.get(self._pool(pool))
        if given is None:
            name = pool["name"]
            hint = f"--template FILE gives it: prefect work-pool inspect {name} --output json | jq .base_job_template"
            raise self.fault(f"the base job template of the work pool {name} is not known", hint)
        tree: Any = parse(given[1], given[0]).value
        load_template(tree, given[0])
        found: Mapping[str, Any] = tree
        return found

    def _command(self, variables: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
        """Return the command as the spec writes it and as it is: that of the job variables, or one that calls the flow."""
        if text := variables.get("command"):
            words = self.words(text)
            return words, words
        self.remark(
            "entrypoint",
            "Prefect's server is not asked: the run calls the flow itself",
            "set PREFECT_API_URL in env to see it there",
            lost=False,
        )
        written = json.dumps(self.written.get("parameters") or {}, ensure_ascii=False)
        final = json.dumps(self.final.get("parameters") or {}, ensure_ascii=False)
        last = Expression(written) if written != final else final
        start = ["python", "-c", _CALL, self.final["entrypoint"]]
        return [*start, last], [*start, final]

    def words(self, command: Any) -> list[str]:
        """Return a command as a list; a text is split as a shell would."""
        try:
            return shlex.split(command) if isinstance(command, str) else [scalar_text(word) for word in command]
        except ValueError as error:
            raise self.fault(f"its command is none: {error}") from None

    def amount(self, value: Any) -> int:
        """Return a size in bytes."""
        try:
            return size(value)
        except ValueError as error:
            raise self.fault(str(error)) from None

    def _variable(self, name: str, value: Any) -> Any:
        text = scalar_text(value)
        if value is None or isinstance(value, Expression) or not looks_secret(name, text):
            return value
        secret = Secret(ENVIRONMENT, name)
        path = f"work_pool.job_variables.env.{name}"
        self.secrets[secret] = Hidden(text, path, self.sources.key((*self.base, *path.split("."))))
        return secret

    def _told(self) -> None:
        for key, value in self.final.items():
            if value not in (None, [], {}, "") and key in _OF_SERVER:
                self.remark(key, "is for Prefect's server", _OF_SERVER[key], lost=False)
            elif value and key not in (
                *_NEITHER,
                "name",
                "entrypoint",
                "description",
                "parameters",
                "work_pool",
                "pull",
            ):
                self.remark(key, "is not known here")
        for key in sorted((self.final.get("work_pool") or {}).keys() - {"name", "job_variables"}):
            told = _OF_SERVER.get(key, "it says nothing about what runs")
            self.remarks.append(
                Remark(f"work_pool.{key}", "is for Prefect's server", told, self.where("work_pool"), False)
            )
        for step in self.pull:
            name = str(next(iter(step), ""))
            if name != _SET_DIRECTORY or not self.directory:
                instead = "have the code in the image, or get it in a run of its own"
                self.remarks.append(Remark(f"pull.{name}", "a run pulls no code", instead, self.where("pull")))

    def remark(self, key: str, why: str, instead: str = "", *, lost: bool = True) -> None:
        """Note what is not carried over of a field."""
        self.remarks.append(Remark(key, why, instead, self.where(key), lost, self.final.get(key)))

    def where(self, key: str) -> Position | None:
        """Return where a field stands: in the deployment, or else for all of them."""
        return self.sources.key((*self.base, key) if key in self.final else (key,))


def _type(template: Mapping[str, Any]) -> str:
    """Return the provider of runs with a base job template, by what it configures."""
    configured = template.get("job_configuration", {}).keys()
    return "kubernetes" if "job_manifest" in configured else "docker" if "auto_remove" in configured else "process"


_GONE = object()


def _filled(template: Mapping[str, Any], given: Mapping[str, Any], of: _Deployment) -> Any:
    """Return a job configuration as Prefect fills it in (``prefect.utilities.templating.apply_values``)."""
    properties = (template.get("variables") or {}).get("properties") or {}
    values = {name: one["default"] for name, one in properties.items() if isinstance(one, dict) and "default" in one}
    values |= given

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: v for k, v in ((k, fill(child)) for k, child in value.items()) if v is not _GONE and v is not None
            }
        if isinstance(value, list):
            return [v for v in map(fill, value) if v is not _GONE]
        if not isinstance(value, str):
            return value
        if whole := _PLACEHOLDER.fullmatch(value):
            return values.get(whole[1], _GONE)
        return _PLACEHOLDER.sub(lambda found: scalar_text(values.get(found[1])), value)

    return fill(
        template.get("job_configuration") or {name: f"{{{{ {name} }}}}" for name in ("command", "env", "working_dir")}
    )


def _env(given: Any) -> dict[str, str]:
    return {name: scalar_text(value) for name, value in (given or {}).items() if value is not None}


def _of_kubernetes(filled: Any, of: _Deployment) -> Objects:
    job = filled.get("job_manifest")
    pod, first, metadata = (value_at(job, path) for path in (POD, FIRST, ("metadata",)))
    if isinstance(metadata, dict):
        metadata.pop("generateName", None)
    if not isinstance(first, dict) or not first.get("image"):
        raise of.fault("has no image", "Prefect takes one of its own version: name it in job_variables.image")
    for key in ("parallelism", "completions"):  # Prefect's template has them where the API server drops them
        if key in pod:
            job["spec"].setdefault(key, pod.pop(key))
    if isinstance(first.get("env"), dict):
        first["env"] = [{"name": name, "value": value} for name, value in _env(first["env"]).items()]
    if isinstance(first.get("args"), str):
        first["args"] = of.words(first["args"])
    if of.directory:
        first["workingDir"] = of.directory
    labels = _env(filled.get("labels"))
    if labels:  # they are on the Job, and flowplan has them on its pods too
        job["spec"]["template"].setdefault("metadata", {}).setdefault("labels", labels)
    if limit := filled.get("job_watch_timeout_seconds"):
        job["spec"]["activeDeadlineSeconds"] = limit
    return {"Job": without_defaults(job)}


def _of_docker(filled: Any, of: _Deployment) -> Objects:
    if not filled.get("image"):
        raise of.fault("has no image", "Prefect takes one of its own version: name it in job_variables.image")
    memory = {
        key: of.amount(filled[name])
        for key, name in (("Memory", "mem_limit"), ("MemorySwap", "memswap_limit"))
        if filled.get(name)
    }
    host = {**memory, "AutoRemove": filled.get("auto_remove"), "Privileged": filled.get("privileged")}
    networks = filled.get("networks") or []
    host["NetworkMode"] = networks[0] if networks else filled.get("network_mode")
    binds = [
        v
        if v.startswith(("/", "~")) or not v.startswith(".")
        else posixpath.normpath(posixpath.join(of.around.absolute, v))
        for v in filled.get("volumes") or []
    ]
    host["Binds"] = binds
    config = {
        "Image": filled["image"],
        "Cmd": filled.get("command"),
        "WorkingDir": of.directory or filled.get("working_dir"),
        "Env": sorted(f"{name}={value}" for name, value in _env(filled.get("env")).items()),
        "Labels": _env(filled.get("labels")),
        "HostConfig": {key: value for key, value in host.items() if value not in (None, [])},
    }
    return {
        "Container": {"Networks": networks, "Config": {key: v for key, v in config.items() if v not in (None, [], {})}}
    }


def _plain_container(source: Any, rendered: Objects) -> Objects:
    """Return the part of a container that a job configuration of Prefect says."""
    container, known = rendered["Container"], ("Image", "Cmd", "WorkingDir", "Env", "Labels", "HostConfig")
    config = {key: container["Config"][key] for key in known if container["Config"].get(key)}
    config["Labels"] = {k: v for k, v in config.get("Labels", {}).items() if not is_own_label(k)}
    config["HostConfig"] = {k: v for k, v in config.get("HostConfig", {}).items() if k != "ExtraHosts"}
    config = {key: value for key, value in config.items() if value or key in source["Config"]}
    return {"Container": {"Networks": container["Networks"], "Config": config}}


def _of_process(filled: Any, of: _Deployment) -> Objects:
    directory = of.directory or filled.get("working_dir") or ""
    return {
        "Process": {"argv": filled["command"], "cwd": posixpath.normpath(directory), "env": _env(filled.get("env"))}
    }


def _plain_process(source: Any, rendered: Objects) -> Objects:
    return {"Process": {key: rendered["Process"][key] for key in ("argv", "cwd", "env")}}


_WANTED = {"kubernetes": _of_kubernetes, "docker": _of_docker, "process": _of_process}
_PLAIN = {"kubernetes": jobs.plain, "docker": _plain_container, "process": _plain_process}
