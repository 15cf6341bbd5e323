"""Services of a compose file that come to an end, as containers of a spec."""

from __future__ import annotations

import fnmatch
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from flowplan.planner.importing import (
    ENVIRONMENT,
    Around,
    Expression,
    Hidden,
    Imported,
    Remark,
    Secret,
    Source,
    compose_shapes,
    run_name,
    shapes,
)
from flowplan.planner.importing.interpolation import Variables, as_they_are, filled_in
from flowplan.planner.importing.secrets import looks_secret
from flowplan.planner.manifests.docker_options import Options
from flowplan.planner.manifests.docker_values import hosts, parse_volume
from flowplan.planner.manifests.names import is_own_label
from flowplan.schemas.documents import Document, scalar_text
from flowplan.schemas.env_files import variables as variables_of_file
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.images import parse_image
from flowplan.schemas.quantities import cpus, duration, size
from flowplan.schemas.runs import Json, Objects
from flowplan.schemas.sources import SourceMap

ENDED = "service_completed_successfully"
_RESOLVED = "`docker compose config | flowplan import -` takes it with everything filled in"
_UNTIL = {"service_started": "has started", "service_healthy": "is healthy"}
_POLICIES = {"always": "Always", "never": "Never", "missing": "IfNotPresent", "if_not_present": "IfNotPresent"}
_OF_COMPOSE = {
    "annotations": "a container has labels only",
    "attach": "`stream_output: false` of the run prints nothing",
    "build": "flowplan builds nothing: `docker compose build` makes the image before",
    "develop": "it is for `docker compose watch`",
    "profiles": "",
    "scale": "a matrix makes several runs",
}
"""Fields that say what compose does, not what the container is, and what stands for them here."""


def is_compose(value: Json) -> bool:
    """Return whether a document is a compose file."""
    return isinstance(value, dict) and isinstance(value.get("services"), dict)


def imported(documents: Sequence[Document], around: Around) -> Source:
    """Return the runs of all services that come to an end.

    Raises:
        InvalidInput: the file is not one that docker compose would take, or it needs docker compose to be understood.
    """
    document = documents[0]
    sources, tree = document.sources, document.value
    for key in ("include", "extends"):
        for path in [(key,), *(("services", name, key) for name in tree["services"])]:
            if sources.find_key(path):
                raise InvalidInput([sources.at_key(path, "is not taken over", _RESOLVED)])
    faults = shapes.faults(tree, sources, compose_shapes.SHAPES)
    if len(documents) > 1:
        faults.append(documents[1].sources.at_value((), "a compose file is one document"))
    if faults:
        raise InvalidInput(faults)
    dotenv = filled_in(around.dotenv, variables_of_file(around.dotenv, ".env"))
    in_directory = re.sub(r"[^a-z0-9_-]", "", around.directory_name.lower()).lstrip("_-") or "project"
    project = str(dotenv.get("COMPOSE_PROJECT_NAME") or tree.get("name") or in_directory)
    around = around._replace(profiles=[*around.profiles, *(dotenv.get("COMPOSE_PROFILES") or "").split(",")])
    variables = Variables(sources, dotenv)
    written, final = variables.both({key: value for key, value in tree.items() if not key.startswith("x-")}, ())
    remarks, chosen = list(_beside(sources.file, dotenv, around)), []
    for name, service in final["services"].items():
        why, instead = _left_out(name, service, final["services"], around)
        if why:
            at = sources.key(("services", name))
            remarks.append(Remark(f"services.{name}", why, instead, at, lost=False))
        else:
            chosen.append(name)
    runs = [
        _Service(name, chosen, final, around, project, sources).run(written["services"][name], variables)
        for name in chosen
    ]
    used = {name: one for name, one in variables.declared.items() if any(_uses(run.fields, name) for run in runs)}
    values = {name: variables.values[name] for name in used}
    return Source(runs, remarks, project, used, values, alone=_RESOLVED)


def _beside(file: str, dotenv: Mapping[str, str | None], around: Around) -> Iterator[Remark]:
    """Yield the files that docker compose would merge with this one."""
    stem, _, ending = posixpath.basename(file).rpartition(".")
    if stem in ("compose", "docker-compose") and ending in ("yaml", "yml"):
        names = [f"{stem}.override.{end}" for end in ("yaml", "yml")]
        for name in (name for name in names if around.read(name) is not None):
            yield Remark(name, "docker compose merges it with this file", _RESOLVED, lost=False)
    if files := dotenv.get("COMPOSE_FILE"):
        yield Remark("COMPOSE_FILE", "docker compose takes these files", _RESOLVED, lost=False, value=files)


def _conditions(service: Mapping[str, Any]) -> dict[str, str]:
    """Return the services that one depends on -> the condition that it waits for."""
    given = service.get("depends_on") or {}
    if isinstance(given, list):
        return dict.fromkeys(map(str, given), "service_started")
    return {name: str((one or {}).get("condition", "service_started")) for name, one in given.items()}


def _left_out(name: str, service: Mapping[str, Any], services: Mapping[str, Any], around: Around) -> tuple[str, str]:
    """Return why a service becomes no run, and what to do; "" for one that does."""
    anyway = f"--target {name} imports it all the same"
    if around.targets:
        wanted = any(fnmatch.fnmatchcase(name, target) for target in around.targets)
        return ("", "") if wanted else ("is not among the targets", "")
    profiles = [str(profile) for profile in service.get("profiles") or []]
    if profiles and not set(profiles) & set(around.profiles):
        return f"its profile {profiles[0]} is not enabled", f"--profile {profiles[0]} enables it"
    awaited = {conditions[name] for other in services.values() if name in (conditions := _conditions(other or {}))}
    restart = str(service.get("restart", ""))
    if restart in ("always", "unless-stopped"):
        return f"does not end (restart: {restart})", anyway
    if ENDED in awaited or restart:
        return "", ""
    if "service_healthy" in awaited:
        return "does not end: another service waits until it is healthy", anyway
    if sign := next((key for key in ("ports", "healthcheck") if service.get(key)), ""):
        return f"seems not to end: it has {sign}", anyway
    return "", ""


class _Service:
    """One service: its fields in the spec, and the container that compose would create."""

    def __init__(
        self,
        name: str,
        chosen: Sequence[str],
        final: Mapping[str, Any],
        around: Around,
        project: str,
        sources: SourceMap,
    ) -> None:
        self.name, self.chosen, self.final, self.around = name, chosen, final, around
        self.project, self.sources = project, sources
        self.service: Mapping[str, Any] = final["services"][name]
        self.config: dict[str, Any] = {}
        self.host: dict[str, Any] = {}
        self.container: dict[str, Any] = {"Config": self.config}
        self.fields: dict[str, Any] = {"provider": "docker"}
        self.docker: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.remarks: list[Remark] = []
        self.secrets: dict[Secret, Hidden] = {}

    def run(self, written: Mapping[str, Any], variables: Variables) -> Imported:
        """Return the run; ``written`` is the service with expressions in place of variables."""
        self.written = written
        self._image()
        self._process()
        self._environment()
        self._limits()
        _Volumes(self).take()
        self._networks()
        self._needs()
        self._rest()
        if self.options:
            self.docker["create_options"] = self.options
        if self.docker:
            self.fields["docker"] = self.docker
        if self.host:
            self.config["HostConfig"] = self.host
        wanted: Objects = {"Container": self.container}
        title = f"service {self.name}"
        named = partial(_plain, self.container)
        at = self.sources.key(("services", self.name))
        used = {s: h for s, h in variables.secrets.items() if _uses(self.fields, s.name)}
        return Imported(
            run_name(self.name),
            title,
            self.fields,
            wanted,
            named,
            lambda pointer: at,
            self.remarks,
            {**self.secrets, **used},
        )

    def remark(self, key: str, why: str, instead: str = "", *, lost: bool = True) -> None:
        """Note what is not carried over of a field."""
        at = self.sources.key(("services", self.name, key))
        self.remarks.append(Remark(f"services.{self.name}.{key}", why, instead, at, lost, self.service.get(key)))

    def fault(self, key: str, message: str, hint: str = "") -> InvalidInput:
        """Return the error for a field that docker compose would not take."""
        return InvalidInput([self.sources.at_value(("services", self.name, key), message, hint)])

    def _image(self) -> None:
        image = self.service.get("image")
        if not image and not self.service.get("build"):
            raise InvalidInput([self.sources.at_value(("services", self.name), "has neither image nor build")])
        self.fields["image"] = self.written.get("image") or f"{self.project}-{self.name}"
        self.config["Image"] = str(image or f"{self.project}-{self.name}")
        given = str(self.service.get("pull_policy") or ("never" if not image else "missing"))
        if given not in _POLICIES:
            self.remark(
                "pull_policy", "is none of a run", "image_pull_policy is Always, IfNotPresent or Never", lost=False
            )
        policy = self.container["PullPolicy"] = _POLICIES.get(given, "IfNotPresent")
        try:
            if policy != parse_image(self.config["Image"]).pull_policy:
                self.fields["image_pull_policy"] = policy
        except InvalidInput as error:
            raise self.fault("image", error.diagnostics[0].message, error.diagnostics[0].hint) from None
        if name := self.service.get("container_name"):
            self.fields["name"], self.container["Name"] = self.written["container_name"], str(name)

    def _process(self) -> None:
        for key, field, place in (("entrypoint", "entrypoint", "Entrypoint"), ("command", "command", "Cmd")):
            value = self.service.get(key)
            if value is None:
                continue
            try:
                words = shlex.split(value) if isinstance(value, str) else [scalar_text(word) for word in value]
            except ValueError as error:
                raise self.fault(key, f"is no command: {error}") from None
            if not words and key == "command":
                continue  # the image's own, as without it
            self.fields[field] = self.written[key] if isinstance(value, list) or "$" in self.written[key] else words
            # An empty one takes away the image's; the Engine then keeps the image's command, unless it is [""].
            self.config[place] = words or [""] if self.service.get("command") else words
        if value := self.service.get("working_dir"):
            self.fields["working_dir"], self.config["WorkingDir"] = self.written["working_dir"], value
        if labels := _pairs(self.written.get("labels")):
            self.fields["labels"] = {key: "" if value is None else value for key, value in labels.items()}
            self.config["Labels"] = {k: scalar_text(v) for k, v in _pairs(self.service.get("labels")).items()}

    def _environment(self) -> None:
        found: dict[str, str] = {}
        files = self.written.get("env_file") or []
        paths: list[Any] = []
        for one in files if isinstance(files, list) else [files]:
            path = one if isinstance(one, str) else one.get("path", "")
            text = self.around.read(str(path))
            if text is None and isinstance(one, dict) and one.get("required") is False:
                self.remark("env_file", f"{path} is not there, and not required", "add it when it is", lost=False)
                continue
            if text is None:
                raise self.fault("env_file", f"there is no file {path}")
            shown = self.beside(path)
            paths.append(shown)
            quoted = as_they_are(text)
            for name, value in variables_of_file(text, str(path)).items():
                if value is None:
                    found[name] = f"(sensitive env:{name} unresolved)"
                    continue
                found[name] = f"(sensitive env_file:{shown}#{name} unresolved)"
                if "$" in value and name not in quoted:
                    self.remark(
                        "env_file", f"docker compose fills in variables in {name}, flowplan does not", "write the value"
                    )
        if paths:
            self.fields["env_file"] = paths[0] if len(paths) == 1 else paths
        written, final = _pairs(self.written.get("environment")), _pairs(self.service.get("environment"))
        env: dict[str, Any] = {}
        for name, value in final.items():
            text = scalar_text(value)
            if value is None:
                env[name] = Secret(ENVIRONMENT, name)
                found[name] = f"(sensitive env:{name} unresolved)"
                told = f"{name} comes from the environment of whoever plans and applies, and has to be there"
                self.remark("environment", told, "docker compose leaves it out where it is not", lost=False)
                continue
            env[name] = written[name] if isinstance(written[name], Expression) else text
            found[name] = text
            if looks_secret(name, text) and "${var." not in str(env[name]):
                env[name] = Secret(ENVIRONMENT, name)
                at = self.sources.key(("services", self.name, "environment"))
                self.secrets[env[name]] = Hidden(text, f"services.{self.name}.environment.{name}", at)
        if env:
            self.fields["env"] = env
        if found:
            self.config["Env"] = sorted(f"{name}={value}" for name, value in found.items())

    def _limits(self) -> None:
        deploy = self.service.get("deploy") or {}
        limits = (deploy.get("resources") or {}).get("limits") or {}
        reserved = (deploy.get("resources") or {}).get("reservations") or {}
        written = ((self.written.get("deploy") or {}).get("resources") or {}).get("limits") or {}
        if (amount := self.service.get("cpus", limits.get("cpus"))) is not None:
            self.fields.setdefault("resources", {})["cpu"] = self.written.get("cpus", written.get("cpus"))
            self.host["NanoCpus"] = self._amount(cpus, amount, "cpus")
        if (amount := self.service.get("mem_limit", limits.get("memory"))) is not None:
            self.docker["mem_limit"] = self.written.get("mem_limit", written.get("memory"))
            self.host["Memory"] = self._amount(size, amount, "mem_limit")
        if (amount := self.service.get("memswap_limit")) is not None:
            self.docker["memswap_limit"] = self.written["memswap_limit"]
            self.host["MemorySwap"] = -1 if str(amount) == "-1" else self._amount(size, amount, "memswap_limit")
        if "pids" in limits:
            self.option("pids_limit", limits["pids"], "deploy")
        if "memory" in reserved:
            self.option("mem_reservation", reserved["memory"], "deploy")
        if devices := reserved.get("devices"):
            self.option("device_requests", [_device(one) for one in devices], "deploy")
        again = deploy.get("restart_policy") or {}
        for key in sorted(deploy.keys() - {"resources", *(("restart_policy",) if _known(again) else ())}):
            if not (key == "replicas" and deploy[key] == 1):
                self.remark(
                    "deploy", f"{key} is not carried over", "a matrix makes several runs" if key == "replicas" else ""
                )
        restart = str(self.service.get("restart") or "no")
        if _known(again):
            restart = "no" if again["condition"] == "none" else f"on-failure:{again['max_attempts']}"
        tries = restart.partition(":")[2]
        if restart.startswith("on-failure") and tries.isdigit():
            self.fields["retries"] = int(tries)
            self.host["RestartPolicy"] = {"Name": "on-failure", "MaximumRetryCount": int(tries)}
        elif restart != "no":
            self.remark("restart", "a run comes to an end", "`retries` says how often it is tried again")
        if grace := self.service.get("stop_grace_period"):
            self.fields["grace_period"] = self.written["stop_grace_period"]
            self._amount(duration, grace, "stop_grace_period")

    def _amount(self, read: Callable[[Any], Any], value: Json, key: str) -> Json:
        try:
            return read(value)
        except ValueError as error:
            raise self.fault(key if key in self.service else "deploy", str(error)) from None

    def beside(self, path: Any) -> Any:
        """Return a path as the spec says it, which may lie elsewhere."""
        if not self.around.directory or str(path).startswith(("/", "~", "${")):
            return path
        joined = posixpath.normpath(posixpath.join(self.around.directory, str(path)))
        relative = joined if joined.startswith("../") else f"./{joined}"
        return _like(path, relative)

    def resource(self, kind: str, name: str) -> str:
        """Return what a network or volume is called on the engine."""
        declared = (self.final.get(kind) or {}).get(name) or {}
        external = declared.get("external")
        if isinstance(external, dict) and external.get("name"):
            return str(external["name"])
        return str(declared.get("name") or (name if external else f"{self.project}_{name}"))

    def _networks(self) -> None:
        mode = self.service.get("network_mode")
        if mode:
            if str(mode).startswith("service:"):
                self.remark(
                    "network_mode", "a run does not share the network of a service", "name a container: container:NAME"
                )
                return
            self.docker["network_mode"], self.host["NetworkMode"] = self.written["network_mode"], mode
            self.container["Networks"] = []
        else:
            given = self.service.get("networks") or ["default"]
            names = [self.resource("networks", str(name)) for name in given]
            self.docker["networks"], self.container["Networks"] = names, names
            self.host["NetworkMode"] = names[0]
            settings = (
                {self.resource("networks", k): v for k, v in given.items() if v} if isinstance(given, dict) else {}
            )
            made = {
                n: {k: v for k, v in one.items() if k not in ("priority", "gw_priority")} for n, one in settings.items()
            }
            if any(made.values()):
                self.option("networking_config", made, "networks")
            unmade = [n for n in names if n.startswith(f"{self.project}_")]
            if unmade:
                why = f"the network {', '.join(unmade)} has to be there, and {self.name} is no host name in it"
                told = "`docker compose up --no-start` makes it; networking_config has aliases"
                self.remark("networks", why, told, lost=False)
        if extra := self.service.get("extra_hosts"):
            self.docker["extra_hosts"] = _hosts(self.written["extra_hosts"])
            entries = self._amount(hosts, _hosts(extra), "extra_hosts").items()
            self.host["ExtraHosts"] = sorted(f"{host}:{address}" for host, address in entries)
        if self.service.get("privileged") is not None:
            self.docker["privileged"] = self.host["Privileged"] = self.service["privileged"]

    def _needs(self) -> None:
        needs = []
        for other, condition in _conditions(self.service).items():
            if other not in self.chosen:
                told = f"`docker compose up --detach --wait {other}` before"
                self.remark("depends_on", f"{other} is no run", told, lost=False)
                continue
            needs.append(run_name(other))
            if condition != ENDED:
                until = _UNTIL.get(condition, condition)
                self.remark("depends_on", f"waits until {other} has succeeded, not only until it {until}", lost=False)
        if needs:
            self.fields["needs"] = needs

    def option(self, name: str, value: Json, key: str, written: Any = None) -> None:
        """Take an option of the Engine as it is, in the spelling of compose, unless the Engine has none of that name."""
        options = Options({name: value}, self.around.absolute)
        if options.faults:
            told = "; ".join(f"{fault.message}{f' ({fault.hint})' if fault.hint else ''}" for fault in options.faults)
            self.remark(key, told)
            return
        for place, (converted, _) in options.placed.items():
            holder = self.container
            if place[:2] == ("Config", "HostConfig"):
                holder, place = self.host, place[2:]
            for part in place[:-1]:
                holder = holder.setdefault(part, {})
            known = holder.get(place[-1])
            holder[place[-1]] = {**known, **converted} if isinstance(known, dict) else converted
        self.options[name] = value if written is None else written

    def _rest(self) -> None:
        """Take every other field as an option of the Engine."""
        for key, value in self.service.items():
            if key in _OF_COMPOSE:
                if _OF_COMPOSE[key] and value not in (None, 1, [], {}):
                    self.remark(key, "is for docker compose itself", _OF_COMPOSE[key], lost=key == "annotations")
            elif key not in _CARRIED and not key.startswith("x-") and value not in (None, [], {}):
                written = self.written[key]
                if key == "logging":
                    self.option("log_config", _logging(value), key, _logging(written))
                else:
                    self.option(key, value, key, written)


class _Volumes:
    """The volumes of a service, as the spec writes them and as the Engine gets them."""

    def __init__(self, of: _Service) -> None:
        self.of = of
        self.mounted: list[Any] = []
        self.binds: list[str] = []

    def take(self) -> None:
        """Take all volumes, and the files of secrets and configs."""
        for written, final in zip(
            self.of.written.get("volumes") or [], self.of.service.get("volumes") or [], strict=True
        ):
            if isinstance(final, dict):
                self._long_volume(written, final)
                continue
            source, colon, rest = str(written).partition(":")
            first, _, others = str(final).partition(":")
            if colon and first.startswith("."):
                source = self.of.beside(source)
            elif colon and first.startswith("~"):
                source = first = posixpath.join(self.of.around.home, first[1:].lstrip("/"))
            elif colon and not first.startswith("/"):
                source = first = self.of.resource("volumes", first)
            self.mounted.append(_like(written, f"{source}{colon}{rest}"))
            self._bind(f"{first}{colon}{others}")
        for key in ("secrets", "configs"):
            for one in self.of.service.get(key) or []:
                self._secret(key, one)
        if self.mounted:
            self.of.docker["volumes"] = self.mounted
        if self.binds:
            self.of.host["Binds"] = self.binds

    def _bind(self, text: str) -> None:
        try:
            volume = parse_volume(text, self.of.around.absolute)
        except ValueError as error:
            raise self.of.fault("volumes", str(error)) from None
        if volume.bind:
            self.binds.append(volume.bind)
        else:
            self.of.config.setdefault("Volumes", {})[volume.target] = {}

    def _long_volume(self, written: Any, final: Mapping[str, Any]) -> None:
        kind, known = final.get("type"), {"type", "source", "target", "read_only"}
        if kind in ("bind", "volume") and final.get("source") and not {k for k, v in final.items() if v} - known:
            first = str(final["source"])
            first = self.of.resource("volumes", first) if kind == "volume" else first
            source = self.of.beside(written["source"]) if kind == "bind" else first
            options = ":ro" if final.get("read_only") else ""
            text = f"{source}:{written['target']}{options}"
            self.mounted.append(Expression(text) if "${var." in text else text)
            self._bind(f"{first}:{final['target']}{options}")
        else:
            value = {k: v for k, v in final.items() if k != "consistency"}
            if kind == "volume" and value.get("source"):
                value["source"] = self.of.resource("volumes", str(value["source"]))
            self.of.option("mounts", [*self.of.options.get("mounts", []), value], "volumes")

    def _secret(self, key: str, one: Any) -> None:
        """Mount the file of a secret or config, as docker compose does."""
        name = str(one if isinstance(one, str) else one.get("source"))
        declared = (self.of.final.get(key) or {}).get(name) or {}
        target = (one.get("target") if isinstance(one, dict) else "") or (name if key == "secrets" else f"/{name}")
        if not declared.get("file"):
            self.of.remark(key, f"{name} is no file", "give it in env, or mount a file")
            return
        target = target if target.startswith("/") else f"/run/secrets/{target}"
        path = str(declared["file"])
        path = path if path.startswith((".", "/")) else f"./{path}"
        self.mounted.append(f"{self.of.beside(path)}:{target}:ro")
        self._bind(f"{path}:{target}:ro")


def _like(written: Any, text: str) -> str:
    """Return a text as an expression where that is what it was made of."""
    return Expression(text) if isinstance(written, Expression) else text


_CARRIED = frozenset(
    [
        "image",
        "pull_policy",
        "container_name",
        "entrypoint",
        "command",
        "working_dir",
        "labels",
        "env_file",
        "environment",
        "deploy",
        "cpus",
        "mem_limit",
        "memswap_limit",
        "restart",
        "stop_grace_period",
        "volumes",
        "secrets",
        "configs",
        "network_mode",
        "networks",
        "extra_hosts",
        "privileged",
        "depends_on",
    ]
)
"""Fields that have a method of their own."""


def _known(policy: Mapping[str, Any]) -> bool:
    """Return whether ``deploy.restart_policy`` says no more than that, and how often, a service is tried again."""
    return policy == {"condition": "none"} or (
        policy.keys() == {"condition", "max_attempts"} and policy["condition"] == "on-failure"
    )


def _pairs(value: Any) -> dict[str, Any]:
    """Return a mapping that may be written as a list of ``NAME=value``; None where a name stands alone."""
    if isinstance(value, list):
        found = {}
        for one in value:
            name, sign, text = str(one).partition("=")
            found[name] = (Expression(text) if isinstance(one, Expression) else text) if sign else None
        return found
    return dict(value or {})


def _hosts(given: Any) -> Any:
    """Return hosts as flowplan takes them: ``host=address`` is ``host:address``."""
    return given if isinstance(given, dict) else [_like(one, str(one).replace("=", ":", 1)) for one in given]


def _device(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reservation of devices as the Engine's request."""
    names = {"driver": "driver", "count": "count", "device_ids": "device_ids", "options": "options"}
    found = {names[k]: v for k, v in given.items() if k in names}
    if "count" not in found and "device_ids" not in found:
        found["count"] = "all"
    return {**found, "capabilities": [list(given.get("capabilities") or [])]}


def _logging(given: Mapping[str, Any]) -> dict[str, Any]:
    options = (given.get("options") or {}).items()
    return {
        "type": given.get("driver", ""),
        "config": {k: v if isinstance(v, Expression) else scalar_text(v) for k, v in options},
    }


def _uses(value: Any, variable: str) -> bool:
    if isinstance(value, dict | list):
        return any(_uses(child, variable) for child in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, Expression) and f"${{var.{variable}}}" in value


_GATEWAY = "host.docker.internal:host-gateway"


def _plain(source: Mapping[str, Any], rendered: Objects) -> Objects:
    """Return a container as compose would create it: without the marks of flowplan, and a name that the source has not given."""
    container = {k: v for k, v in rendered["Container"].items() if k != "Name" or "Name" in source}
    config = container["Config"] = dict(container["Config"])
    config["Labels"] = {k: v for k, v in config.get("Labels", {}).items() if not is_own_label(k)}
    host = config["HostConfig"] = dict(config.get("HostConfig", {}))
    wanted = source["Config"].get("HostConfig", {}).get("ExtraHosts", ())
    host["ExtraHosts"] = [one for one in host.get("ExtraHosts", ()) if one != _GATEWAY or one in wanted]
    endpoints = config.get("NetworkingConfig", {}).get("EndpointsConfig", {})
    if not any(endpoints.values()):
        config.pop("NetworkingConfig", None)
    for holder in (host, config):
        for key in [key for key, value in holder.items() if value in ([], {})]:
            if not (key in ("Cmd", "Entrypoint")):
                del holder[key]
    return {"Container": container}
