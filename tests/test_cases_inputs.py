"""Files of variables and arguments that are too long: what a spec says is what a run gets, or the plan says why not."""

from __future__ import annotations

from collections.abc import Callable

from projects import Project


def test_cases_are_projects_of_their_own(case_project: Callable[..., Project]) -> None:
    one, two = case_project("20-big-variable"), case_project("20-big-variable", {"ha-x": "another"})
    assert one.name != two.name and one.name.startswith("case-20-")
    assert "another" in (two.directory / "flowplan.yaml").read_text()
    assert one.ok("validate", "--var-file", "vars.yaml").err == ""
