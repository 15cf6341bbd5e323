"""What people would write instead of flowplan, as small as it can be: containers in a pool, raw requests over one pool."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

WORKERS = 10


def create_containers(count: str, label: str) -> None:
    """Create and start containers with the docker package, in a pool of threads."""
    import docker

    client = docker.from_env(max_pool_size=WORKERS)

    def create(number: int) -> None:
        client.containers.create(
            "busybox:1.35", ["sleep", "3600"], name=f"{label}-{number}", labels={"bench": label}
        ).start()

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(create, range(int(count))))


def stop_containers(label: str) -> None:
    """Stop containers with a grace period of 1 s and remove them, with the docker package, in a thread for each."""
    import docker

    client = docker.from_env(max_pool_size=100)
    found = client.containers.list(filters={"label": f"bench={label}"})

    def remove(container: Any) -> None:
        container.stop(timeout=1)
        container.remove(v=True)

    with ThreadPoolExecutor(len(found)) as pool:
        list(pool.map(remove, found))


def post_jobs(file: str) -> None:
    """Post each manifest over one pool of connections, with nothing around."""
    import json

    import urllib3

    from flowplan.providers.kubernetes.connection import endpoint

    items = json.loads(Path(file).read_text())["items"]
    target = endpoint({}, Path("/"))
    pool = urllib3.PoolManager(ssl_context=target.tls, maxsize=WORKERS, block=True)
    headers = {"Content-Type": "application/json", "Authorization": target.credentials.header()}
    headers = {name: value for name, value in headers.items() if value}

    def post(item: dict[str, Any]) -> int:
        url = f"{target.server}/apis/batch/v1/namespaces/{item['metadata']['namespace']}/jobs"
        return pool.request("POST", url, body=json.dumps(item), headers=headers).status

    with ThreadPoolExecutor(WORKERS) as threads:
        for status in threads.map(post, items):
            assert status == 201, status


if __name__ == "__main__":
    doing = {"create-containers": create_containers, "stop-containers": stop_containers, "post-jobs": post_jobs}
    doing[sys.argv[1]](*sys.argv[2:])
