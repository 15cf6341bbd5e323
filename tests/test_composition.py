"""Composition: included files, runs that extend others and environments become one document by one rule, with origins."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowplan.planner.desired.fields import merged
from flowplan.schemas.composition import MOST_BASES, MOST_FILES, is_reference, over, read_files
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.load import LoadedSpec, load_spec
from flowplan.schemas.load import load as load_files

HEAD = "flowplan: 1\nproject: p\n"
RUN = "{provider: process, command: [x]}"


def load(directory: Path, environment: str = "", **files: str) -> LoadedSpec:
    for name, text in files.items():
        path = directory / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with contextlib.chdir(directory):
        return load_spec(Path("spec.yaml"), environment=environment)


def faults(directory: Path, environment: str = "", **files: str) -> list[str]:
    with pytest.raises(InvalidInput) as raised:
        load(directory, environment, **files)
    return [str(fault) for fault in raised.value.diagnostics]


# --- the rule --------------------------------------------------------------------------------------------------------

scalars = st.none() | st.integers(0, 3) | st.sampled_from(["a", "b"])
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if isinstance(value, dict) and value and not is_reference(value):
        return {k: v for key, item in value.items() for k, v in leaves(item, (*path, key)).items()}
    return {path: value}


@settings(deadline=None)
@given(mappings, mappings)
def test_what_is_said_above_counts_and_the_rest_stays(lower: dict[str, Any], upper: dict[str, Any]) -> None:
    merged, above = leaves(over(lower, upper, 9)), leaves(upper)
    for path, value in above.items():
        if value != {}:
            assert merged[path] == value
    for path, value in leaves(lower).items():
        hidden = any(path[:n] in above or (*path, "") in above for n in range(len(path) + 1))
        if not hidden and not any(one[: len(path)] == path for one in above):
            assert merged[path] == value


@settings(deadline=None)
@given(mappings, mappings)
def test_what_was_merged_already_and_what_says_nothing_change_nothing(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert over(over(a, b, 9), b, 9) == over(a, b, 9)
    assert over(a, {}) == over({}, a) == a


@settings(deadline=None)
@given(mappings, mappings, mappings)
def test_null_removes_what_is_below_it_also_what_is_still_to_come(
    defaults: dict[str, Any], lower: dict[str, Any], upper: dict[str, Any]
) -> None:
    """Where the layers are merged from the top down, the result is that of merging them from below."""

    def check(below: Mapping[str, Any], above: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
        for key, value in above.items():
            if value is None and key in below:
                assert key not in merged
            elif isinstance(value, dict) and isinstance(below.get(key), dict):
                check(below[key], value, merged[key])

    check(lower, upper, over(lower, upper))
    for key, value in upper.items():
        if value is None and defaults.get(key) is not None:
            assert key not in over(defaults, over(lower, upper, 0, defaults))


@settings(deadline=None)
@given(mappings, mappings, mappings)
def test_every_merged_value_is_found_where_it_was_written(
    defaults: dict[str, Any], base: dict[str, Any], own: dict[str, Any]
) -> None:
    """A chain of ``extends`` in three files, with values that only the rule decides about, in `variables` of a template."""
    files = {
        "base": {"provider": "process", "command": ["x"], "template": "t.yaml", "variables": defaults},
        "middle": {"extends": "base", "variables": base},
    }
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "t.yaml").write_text("job_configuration: {}\nvariables: {}\n")
        for run, fields in files.items():
            (directory / f"{run}.yaml").write_text(json.dumps({"runs": {run: fields}}, indent=1))
        top = {"extends": "middle", "variables": own}
        spec = {"flowplan": 1, "project": "p", "include": ["base.yaml", "middle.yaml"], "runs": {"top": top}}
        (directory / "spec.yaml").write_text(json.dumps(spec, indent=1))
        loaded = load_spec(directory / "spec.yaml")
        assert loaded.tree["runs"]["top"]["variables"] == over(over(defaults, base, 1), own, 1)
        by_file = {"base.yaml": defaults, "middle.yaml": base, "spec.yaml": own}
        for path, value in leaves(loaded.tree["runs"]["top"]["variables"]).items():
            if value != {}:
                place = loaded.sources.value(("runs", "top", "variables", *path))
                assert leaves(by_file[Path(place.file).name])[path] == value


# --- include ---------------------------------------------------------------------------------------------------------


def test_included_files_are_below_the_spec_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/job.yaml").write_text("kind: Job\n")
    (tmp_path / "shared/a.env").write_text("X=1\n")
    loaded = load(
        tmp_path,
        spec=HEAD + "include: [shared/one.yaml, other.yaml]\ndefaults: {labels: {team: data}, timeout: null}\n"
        f"runs:\n  own: {RUN}\n",
        shared__one="include: two.yaml\ndefaults: {labels: {team: x, tier: low}, timeout: 5m}\nruns:\n"
        "  one: {provider: kubernetes, image: i, working_dir: w, kubernetes: {job: job.yaml}, env_file: [a.env],"
        " env: {S: {from_file: s.txt}, T: {from_file: /abs}, U: {from_file: '${var.dir}/u'}}}\n",
        shared__two=f"variables: {{dir: {{default: d}}}}\nx-own: {{a: 1}}\nruns:\n  two: {RUN}\n",
        other=f"runs:\n  other: {RUN}\n",
    )
    assert list(loaded.tree["runs"]) == ["two", "one", "other", "own"]
    assert loaded.tree["defaults"] == {"labels": {"team": "data", "tier": "low"}, "timeout": None}
    one = loaded.tree["runs"]["one"]
    assert (one["working_dir"], one["kubernetes"]["job"], one["env_file"]) == (
        "shared/w", "shared/job.yaml", ["shared/a.env"],
    )  # fmt: skip
    assert one["env"] == {
        "S": {"from_file": "shared/s.txt"}, "T": {"from_file": "/abs"}, "U": {"from_file": "${var.dir}/u"},
    }  # fmt: skip
    assert "x-own" not in loaded.tree
    assert str(loaded.sources.key(("variables", "dir"))) == "shared/two.yaml:1:13"
    assert loaded.sources.value(("defaults", "labels", "tier")).file == "shared/one.yaml"
    assert loaded.sources.value(("defaults", "labels", "team")).file == "spec.yaml"


def test_the_digest_is_that_of_all_files(tmp_path: Path) -> None:
    files = {"spec": HEAD + "include: a.yaml\n", "a": "include: b.yaml\n", "b": f"runs:\n  one: {RUN}\n"}
    first = load(tmp_path, **files).digest
    assert load(tmp_path, **files).digest == first
    assert load(tmp_path, **{**files, "b": f"runs:\n  one: {RUN} # changed\n"}).digest != first


def test_a_file_that_several_include_is_read_once(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        spec=HEAD + "include: [a.yaml, b.yaml, ./common.yaml]\n",
        a="include: common.yaml\n",
        b="include: common.yaml\n",
        common=f"runs:\n  one: {RUN}\n",
    )
    assert list(loaded.tree["runs"]) == ["one"]


def test_what_two_files_define_is_told_with_both_places(tmp_path: Path) -> None:
    told = faults(
        tmp_path,
        spec=HEAD + f"include: [a.yaml]\nvariables: {{v: {{default: x}}}}\nruns:\n  one: {RUN}\n",
        a=f"variables: {{v: {{default: y}}}}\nruns:\n  one: {RUN}\n",
    )
    assert told == [
        "spec.yaml:4:13: variables.v: is defined already, at a.yaml:1:13",
        "spec.yaml:6:3: runs.one: is defined already, at a.yaml:3:3; extend it under another name, or change it in an environment",
    ]


def test_wrong_includes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    told = faults(
        tmp_path,
        spec=HEAD
        + "include: [missing.yaml, 3, '${var.x}', pipe.yaml, /dev/zero, a.yaml, list.yaml]\nruns:\n"
        + f"  one: {RUN}\n",
        a="flowplan: 2\nproject: q\nincluded: 1\nruns:\n  b: {timeot: 3}\n",
        list="[1]\n",
    )
    for words in (
        "spec.yaml:3:11: include[0]: missing.yaml: there is no such file",
        "spec.yaml:3:25: include[1]: must be the name of a file, not the number 3",
        "include[2]: the name of a file cannot hold an expression",
        "include[3]: pipe.yaml: is a pipe, not a file",
        "include[4]: /dev/zero: is a device, not a file",
        "a.yaml:1:11: flowplan: must be 1, the version of the spec, not the number 2",
        "a.yaml:2:1: project: stands in the spec only, not in a file that it includes",
        "a.yaml:3:1: included: unknown field",
        'a.yaml:5:7: runs.b.timeot: unknown field; did you mean "timeout"?',
        "list.yaml:1:1: must be a mapping, not a list",
    ):
        assert any(words in fault for fault in told), words


def test_a_cycle_of_files_is_told_with_its_path(tmp_path: Path) -> None:
    told = faults(
        tmp_path,
        spec=HEAD + f"include: d/a.yaml\nruns:\n  one: {RUN}\n",
        d__a="include: b.yaml\n",
        d__b="include: ../spec.yaml\n",
    )
    assert told == [
        "d/b.yaml:1:10: include: the files include each other in a cycle: spec.yaml -> d/a.yaml -> d/b.yaml -> spec.yaml"
    ]


def test_endless_includes_and_bombs_are_bounded(tmp_path: Path) -> None:
    many = [f"f{n}.yaml" for n in range(MOST_FILES + 1)]
    for name in many:
        (tmp_path / name).write_text("description: x\n")
    assert (
        f"more than {MOST_FILES} files are included"
        in faults(tmp_path, spec=HEAD + f"include: {json.dumps(many)}\nruns:\n  one: {RUN}\n")[0]
    )
    bomb = "x-a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"x-{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(8)
    )
    assert "alias bomb" in faults(tmp_path, spec=HEAD + f"include: bomb.yaml\nruns:\n  one: {RUN}\n", bomb=bomb)[0]
    big = "x-a: " + "a" * 6_000_000 + "\n"
    told = faults(tmp_path, spec=HEAD + f"include: [b1.yaml, b2.yaml]\nruns:\n  one: {RUN}\n", b1=big, b2=big)
    assert told[0].endswith("bigger than 10 MB")


# --- extends ---------------------------------------------------------------------------------------------------------


def test_chains_of_matrix_runs(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        spec=HEAD + "defaults: {timeout: 1m}\nruns:\n"
        "  small: {extends: large, matrix: {day: null, size: [1]}, resources: {cpu: null}, timeout: null}\n"
        "  large: {extends: train, resources: {memory: 64Gi}, env: {A: {from_env: B}}}\n"
        "  train: {provider: kubernetes, image: i, matrix: {day: [1, 2]}, resources: {cpu: 2}, env: {A: {from_file: a}, B: 1}}\n",
    )
    runs = loaded.tree["runs"]
    assert list(runs) == ["small", "large", "train"]
    assert runs["large"] == {
        **runs["train"], "resources": {"cpu": 2, "memory": "64Gi"}, "env": {"A": {"from_env": "B"}, "B": 1},
    }  # fmt: skip
    assert runs["small"] == {
        **runs["large"], "matrix": {"size": [1]}, "resources": {"cpu": None, "memory": "64Gi"}, "timeout": None,
    }  # fmt: skip
    assert (
        loaded.sources.value(("runs", "small", "image")).line == loaded.sources.value(("runs", "train", "image")).line
    )


def test_null_removes_at_every_depth(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        spec=HEAD + "defaults: {docker: {create_options: {HostConfig: {Init: true}}}}\nruns:\n"
        "  a: {provider: docker, image: i, docker: {create_options: {HostConfig: {ShmSize: 9, Init: true}}}}\n"
        "  b: {extends: a, docker: {create_options: {HostConfig: {ShmSize: null, Init: null, Own: null}}}}\n",
    )
    composed, defaults = loaded.tree["runs"]["b"], loaded.tree["defaults"]
    assert composed["docker"]["create_options"]["HostConfig"] == {"Init": None, "Own": None}
    assert merged(defaults, composed)["docker"]["create_options"]["HostConfig"] == {"Own": None}


def test_wrong_extends(tmp_path: Path) -> None:
    told = faults(
        tmp_path,
        spec=HEAD + "defaults: {extends: a}\nruns:\n"
        "  a: {extends: b}\n  b: {extends: a, timeot: 1}\n  c: {extends: trian}\n  d: {extends: [a]}\n  e: {extends: e}\n"
        f"  train: {RUN}\n",
    )
    assert [line.partition(": ")[2] for line in told] == [
        "defaults.extends: is for a run, not for the defaults of all",
        "runs.b.extends: the runs extend each other in a cycle: a -> b -> a",
        'runs.b.timeot: unknown field; did you mean "timeout"?',
        'runs.c.extends: unknown run "trian"; did you mean "train"?',
        "runs.d.extends: must be a string, not a list",
        "runs.e.extends: the runs extend each other in a cycle: e -> e",
    ]


def test_the_defaults_extend_nothing(tmp_path: Path) -> None:
    told = faults(tmp_path, spec=HEAD + f"defaults: {{extends: a}}\nruns:\n  a: {RUN}\n")
    assert told == ["spec.yaml:3:21: defaults.extends: is for a run, not for the defaults of all"]


def test_a_fault_that_several_runs_inherit_is_told_once(tmp_path: Path) -> None:
    told = faults(
        tmp_path, spec=HEAD + "runs:\n  a: {provider: process, timeout: x}\n  b: {extends: a}\n  c: {extends: b}\n"
    )
    assert len(told) == 1 and told[0].startswith("spec.yaml:4:35: runs.a.timeout: must be a duration")


def test_long_chains_and_big_bases_are_bounded(tmp_path: Path) -> None:
    chain = "".join(f"  r{n}: {{extends: r{n + 1}}}\n" for n in range(MOST_BASES + 10))
    told = faults(tmp_path, spec=HEAD + "runs:\n" + chain + f"  r{MOST_BASES + 10}: {RUN}\n")
    assert told[0].endswith(f"extends more than {MOST_BASES} runs in a chain")
    env = ", ".join(f"V{n}: 1" for n in range(5000))
    heirs = "".join(f"  h{n}: {{extends: base}}\n" for n in range(1000))
    told = faults(tmp_path, spec=HEAD + f"runs:\n  base: {{provider: process, command: [x], env: {{{env}}}}}\n{heirs}")
    assert told[0].endswith("the runs that extend others have too many values")


# --- environments ----------------------------------------------------------------------------------------------------

SPEC = (
    HEAD
    + """\
variables:
  tag: {default: "1.4"}
  size: {type: map, default: {cpu: 1, memory: 2}}
  debug: {type: bool, default: false, description: more words}
providers:
  gpu: {type: kubernetes, context: dev, namespace: ml}
runs:
  train: {provider: gpu, image: "t:${var.tag}", timeout: 1h}
  smoke: {extends: train, command: [smoke]}
environments:
  dev:
  prod:
    variables: {tag: latest, size: {cpu: 8}, debug: {default: true}}
    providers: {gpu: {context: prod, namespace: null}}
    runs: {train: {timeout: 6h, resources: {gpu: 4}}, smoke: null}
"""
)


def test_an_environment_stands_over_the_spec(tmp_path: Path) -> None:
    dev, prod = load(tmp_path, "dev", spec=SPEC), load(tmp_path, "prod", spec=SPEC)
    assert dev.tree["runs"]["smoke"]["image"] == "t:${var.tag}"
    assert list(prod.tree["runs"]) == ["train"]
    assert prod.tree["runs"]["train"] == {
        "provider": "gpu", "image": "t:${var.tag}", "timeout": "6h", "resources": {"gpu": 4},
    }  # fmt: skip
    assert prod.tree["providers"] == {"gpu": {"type": "kubernetes", "context": "prod"}}
    assert prod.tree["variables"] == {
        "tag": {"default": "latest"},
        "size": {"type": "map", "default": {"cpu": 8, "memory": 2}},
        "debug": {"type": "bool", "default": True, "description": "more words"},
    }
    place = prod.sources.place
    assert place(("variables", "tag", "default")) == ("environments", "prod", "variables", "tag")
    assert place(("variables", "size", "default", "cpu")) == ("environments", "prod", "variables", "size", "cpu")
    assert place(("runs", "train", "resources", "gpu")) == ("environments", "prod", "runs", "train", "resources", "gpu")
    assert (dev.digest, dev.environment, prod.environment) == (prod.digest, "dev", "prod")


def test_the_environment_is_named_and_known(tmp_path: Path) -> None:
    assert faults(tmp_path, spec=SPEC) == [
        "spec.yaml has the environments dev, prod; name one with --env or FLOWPLAN_ENV"
    ]
    assert faults(tmp_path, "prd", spec=SPEC) == [
        'spec.yaml has no environment "prd", only dev, prod; did you mean "prod"?'
    ]
    plain = HEAD + f"runs:\n  a: {RUN}\n"
    assert faults(tmp_path, "dev", spec=plain) == ["spec.yaml has no environments; leave --env and FLOWPLAN_ENV out"]


def test_wrong_environments(tmp_path: Path) -> None:
    told = faults(
        tmp_path,
        "dev",
        spec=HEAD + f"variables: {{tag: {{default: x}}}}\nruns:\n  train: {RUN}\nenvironments:\n  dev:\n"
        "    project: q\n    runs: {trian: null, train: {timeot: 1}}\n    variables: {tga: 1, tag: 3}\n  ../x: 3\n",
    )
    assert told == [
        "spec.yaml:8:5: environments.dev.project: cannot differ between environments",
        'spec.yaml:9:12: environments.dev.runs.trian: there is none to remove; did you mean "train"?',
        'spec.yaml:9:33: environments.dev.runs.train.timeot: unknown field; did you mean "timeout"?',
        'spec.yaml:10:17: environments.dev.variables.tga: the spec declares no such variable; did you mean "tag"?',
        "spec.yaml:10:30: environments.dev.variables.tag: must be of the variable's type string, not the number 3; write it in quotes",
        "spec.yaml:11:3: environments.../x: must be a name of at most 63 letters, digits, -, _ and .",
        "spec.yaml:11:9: environments.../x: must be a mapping, not the number 3",
    ]


def test_environments_of_included_files(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        "prod",
        spec=HEAD
        + f"include: d/a.yaml\nruns:\n  one: {RUN}\nenvironments:\n  prod: {{runs: {{one: {{labels: {{a: spec}}}}}}}}\n",
        d__a="environments:\n  prod: {runs: {one: {labels: {a: a, b: a}, working_dir: w}}}\n  dev:\n",
    )
    assert loaded.tree["runs"]["one"]["labels"] == {"a": "spec", "b": "a"}
    assert loaded.tree["runs"]["one"]["working_dir"] == "d/w"
    assert str(loaded.sources.value(("runs", "one", "labels", "b"))) == "d/a.yaml:2:41"


# --- hostile input ---------------------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "dev", "../x", ""])
nonsense = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["a", "b", "spec.yaml", "more.yaml", "${var.a}", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "b", "extends", "env", "matrix", "from_env", "default", "dev"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
documents = st.fixed_dictionaries(
    {"runs": nonsense | st.dictionaries(names, nonsense | st.fixed_dictionaries({"extends": names}), max_size=3)},
    optional=dict.fromkeys(
        ("include", "environments", "variables", "defaults", "providers", "x-a", "policies"), nonsense
    ),
)


@settings(deadline=None)
@given(documents, documents | nonsense, st.dictionaries(names, documents, max_size=2))
def test_nonsense_is_told_and_never_a_defect(spec: dict[str, Any], more: Any, environments: dict[str, Any]) -> None:
    spec = {"flowplan": 1, "project": "p", "environments": environments, "include": "more.yaml", **spec}
    with tempfile.TemporaryDirectory() as name:
        for file, content in (("spec", spec), ("more", more)):
            (Path(name) / f"{file}.yaml").write_text(json.dumps(content))
        with contextlib.suppress(InvalidInput):
            read = read_files(Path(name) / "spec.yaml")
            for environment in read.environments or [""]:
                with contextlib.suppress(InvalidInput):
                    loaded = load_files(read, environment=environment)
                    for path in {leaf[:end] for leaf in leaves(loaded.tree) for end in range(1, len(leaf) + 1)}:
                        assert loaded.sources.told(path, loaded.sources.value(path))
