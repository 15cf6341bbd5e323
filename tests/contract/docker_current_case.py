"""The docker provider for the contract suite on a current Docker Engine, that of DOCKER_CURRENT."""

from __future__ import annotations

import os
from pathlib import Path

import docker_case
from case import Case


def available() -> str | None:
    return docker_case.available(os.environ["DOCKER_CURRENT"])


def case(tmp_path: Path) -> Case:
    return docker_case.case(tmp_path, os.environ["DOCKER_CURRENT"])
