"""The Job API that is shipped: every version of the source, exactly, with what changed between them."""

from __future__ import annotations

import pytest
from distill_job_api import distilled, sources

from flowplan.schemas import job_api

SPEC = "io.k8s.api.batch.v1.JobSpec"


def test_the_file_is_current_and_has_every_version() -> None:
    """Fail when a newer Kubernetes in the source is not in the file yet: `make docs` writes it anew."""
    assert job_api.versions() == tuple(sources())


@pytest.mark.parametrize("version", job_api.versions())
def test_a_version_is_that_of_the_source(version: str) -> None:
    assert job_api.definitions(version) == distilled(sources()[version])


def test_the_newest_version_is_the_default() -> None:
    assert job_api.definitions() == job_api.definitions(job_api.versions()[-1])


def test_versions_differ_in_what_the_api_learned() -> None:
    assert "backoffLimitPerIndex" not in job_api.definitions("1.27")[SPEC]["properties"]
    assert "backoffLimitPerIndex" in job_api.definitions("1.28")[SPEC]["properties"]
    assert set(job_api.definitions("1.25")) < set(job_api.definitions())


def test_it_is_small() -> None:
    assert job_api.FILE.stat().st_size < 150_000
