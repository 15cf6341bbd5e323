"""Write what docker compose asks the Engine to create for a compose file: ``record_compose.py DOCKER_COMPOSE DIRECTORY``.

Containers are created with images that are there, through a socket that notes each request, and removed; the bodies go to
``created.json`` in the directory, without what compose and flowplan call by their own names and without empty members.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

ENGINE = "/var/run/docker.sock"


def compared(body: dict[str, Any], directory: str) -> dict[str, Any]:
    """Return a body of a create call in a form in which two that mean the same are equal.

    Volumes are a sorted list of what is mounted where: compose says as mounts what flowplan says as binds.
    """
    found = _stripped(body)
    host = found.setdefault("HostConfig", {})
    found["Env"] = sorted(found.get("Env", ()))
    labels = {
        k: v for k, v in body.get("Labels", {}).items() if not re.match(r"com\.docker\.compose|dev\.flowplan|io\.k", k)
    }
    found |= {"Labels": labels}
    if host.get("RestartPolicy") == {"Name": "no"}:
        del host["RestartPolicy"]
    host["ExtraHosts"] = sorted(
        one for one in host.get("ExtraHosts", ()) if not one.startswith("host.docker.internal:")
    )
    host["Ulimits"] = sorted(host.get("Ulimits", ()), key=str)
    mounted = list(host.pop("Mounts", ()))
    for source, target, options in (f"{one}:".split(":")[:3] for one in host.pop("Binds", ())):
        kind = "bind" if source.startswith("/") else "volume"
        mount = {"Type": kind, "Source": source, "Target": target, "ReadOnly": options == "ro"}
        mounted.append(_stripped(mount))
    mounted += [{"Type": "volume", "Target": target} for target in body.get("Volumes") or ()]
    host["Mounts"] = sorted(mounted, key=lambda mount: str(mount["Target"]))
    endpoints = found.pop("NetworkingConfig", {}).get("EndpointsConfig", {})
    found["Networks"] = sorted(endpoints)
    for name in ("AttachStdout", "AttachStderr"):
        found.pop(name, None)
    host.pop("ConsoleSize", None)
    return json.loads(json.dumps(_stripped(found)).replace(directory, "/project"))  # type: ignore[no-any-return]


def _stripped(value: Any) -> Any:
    """Return a value without empty members, which the Engine takes as none."""
    if isinstance(value, dict):
        pairs = {key: _stripped(child) for key, child in value.items()}
        return {key: child for key, child in pairs.items() if child not in (None, "", [], {}, False, 0)}
    return [_stripped(child) for child in value] if isinstance(value, list) else value


def record(compose: str, directory: Path) -> dict[str, Any]:
    """Return the body of each service's create call."""
    path, logs = tempfile.mktemp(suffix=".sock"), list[bytearray]()
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(50)

    def pump(source: socket.socket, sink: socket.socket, log: bytearray) -> None:
        while data := source.recv(65536):
            log.extend(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        while True:
            client, _ = server.accept()
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(ENGINE)
            logs.append(bytearray())
            threading.Thread(target=pump, args=(client, engine, logs[-1]), daemon=True).start()
            threading.Thread(target=pump, args=(engine, client, bytearray()), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    env = {**os.environ, "DOCKER_HOST": f"unix://{path}"}
    for words in (["create", "--pull", "never", "--no-build"], ["down", "--volumes", "--timeout", "0"]):
        subprocess.run([compose, *words], cwd=directory, env=env, check=True)
    Path(path).unlink()
    found = {}
    for log in map(bytes, logs):
        for head in re.finditer(rb"POST /v[0-9.]+/containers/create\S* HTTP/1.1\r\n(.*?)\r\n\r\n", log, re.DOTALL):
            length = int(re.findall(rb"(?i)content-length: (\d+)", head[1])[0])
            body = json.loads(log[head.end() : head.end() + length])
            found[body["Labels"]["com.docker.compose.service"]] = compared(body, str(directory))
    return dict(sorted(found.items()))


if __name__ == "__main__":
    where = Path(sys.argv[2]).absolute()
    (where / "created.json").write_text(json.dumps(record(sys.argv[1], where), indent=1) + "\n")
