"""README and docs say what flowplan does: every command is run, every spec is checked, every link leads somewhere."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import consoles
import generate
import pytest
import yaml
from consoles import Block, Session

BIN = Path(sys.executable).parent
ROOT = consoles.ROOT
PAGES = consoles.pages()
LANGUAGES = {"", "console", "yaml", "sh", "python", "toml", "json"}
HEAD = "flowplan: 1\nproject: page\n"
RUN = HEAD + "runs:\n  r:\n    provider: {provider}\n{run}"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def marked(session: Session) -> object:
    # One after another: pages share the names of their projects, and two states of one project refuse each other.
    marks = [pytest.mark.xdist_group("pages"), *(getattr(pytest.mark, engine) for engine in session.needs)]
    return pytest.param(session, marks=marks, id=str(session))


def every_session() -> list[Session]:
    return [session for page in PAGES for session in consoles.sessions(page)]


def every_block() -> list[object]:
    found = [(page, block) for page in PAGES for block in consoles.blocks(page) if block.language]
    return [pytest.param(page, block, id=f"{name(page)}:{block.line}") for page, block in found]


@pytest.mark.parametrize("session", [marked(s) for s in every_session()])
def test_what_a_page_shows_is_what_happens(session: Session) -> None:
    wrong = list(consoles.disagreements(session, BIN))
    told = [
        f"{name(session.page)}:{block.line}: $ {command.text}\n--- shown\n{consoles.masked(command.output)}\n"
        f"--- printed\n{consoles.masked(actual)}"
        for block, command, actual in wrong
    ]
    assert not wrong, "\n\n".join([*told, "`make docs` writes the outputs anew"])


@pytest.mark.parametrize(("page", "block"), every_block())
def test_every_block_is_of_a_kind_that_is_checked(page: Path, block: Block, tmp_path: Path) -> None:
    assert block.language in LANGUAGES, f"a block of {block.language!r}"
    if block.language == "yaml":
        check_yaml(page, block, tmp_path)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "sh":
        for line in filter(None, block.text.splitlines()):
            assert line.startswith("make "), f"{line!r} is not run: a console block would be"
            assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line


def check_yaml(page: Path, block: Block, directory: Path) -> None:
    """Require a valid spec, or a part of one; anything else must say what it is."""
    for other in consoles.blocks(page):
        if other.option.startswith("file: "):
            file = directory / other.option.removeprefix("file: ")
            file.parent.mkdir(exist_ok=True)
            file.write_text(other.text)
    document = yaml.safe_load(block.text)
    kind, _, provider = block.option.partition(": ")
    if block.option == "manifest" or (kind == "file" and "flowplan" not in document):
        return  # what uses the file is run
    if kind == "run":
        text = RUN.format(provider=provider, run=textwrap.indent(block.text, "    "))
    elif kind == "spec":
        text = HEAD + block.text + ("" if "runs" in document else "runs: {}\n")
    else:
        text = block.text
    (directory / "flowplan.yaml").write_text(text)
    env = {**os.environ, "FLOWPLAN_VAR_token": "a-token"}
    done = subprocess.run(
        [BIN / "flowplan", "validate"], check=False, cwd=directory, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, text + done.stderr


def test_what_is_generated_is_current() -> None:
    stale = [name(path) for path, text in generate.generated().items() if path.read_text() != text]
    assert not stale, "`make docs` writes them anew"


def test_every_command_and_option_is_documented() -> None:
    import typer

    from flowplan.cli import COMMANDS
    from flowplan.typed import application

    page = (ROOT / "docs" / "commands.md").read_text()
    for path, command in generate._leaves("flowplan", typer.main.get_command(application(COMMANDS))):
        assert f"\n## {path}\n" in page
        assert command.help, f"{path} has no help"
        for parameter in command.params:
            assert all(f"`{option}" in page for option in parameter.opts if option.startswith("--")), path
            assert parameter.help or not parameter.opts[0].startswith("--"), f"{path} {parameter.opts[0]} has no help"


def test_every_field_of_the_spec_is_described() -> None:
    schema = json.loads((ROOT / "schemas" / "spec.schema.json").read_text())
    parts = {"Spec": schema, **schema["$defs"]}
    silent = [
        f"{p}.{f}" for p, part in parts.items() for f, s in part["properties"].items() if not s.get("description")
    ]
    assert not silent


def test_every_exit_code_is_in_the_table() -> None:
    from flowplan.schemas import errors

    page = (ROOT / "docs" / "exit-codes.md").read_text()
    classes = [value for value in vars(errors).values() if isinstance(value, type) and hasattr(value, "exit_code")]
    for code in {0, 2, 3, 8, 130, *(c.exit_code for c in classes)}:
        assert f"| {code} |" in page


def test_every_status_is_in_the_page_of_the_lifecycle() -> None:
    from flowplan.schemas.runs import Status

    page = (ROOT / "docs" / "lifecycle.md").read_text()
    assert [status for status in Status if f"| `{status}` |" not in page] == []


def test_every_action_is_in_the_page_of_plans() -> None:
    from flowplan.schemas.plans import Action

    page = (ROOT / "docs" / "plans.md").read_text()
    assert [action for action in Action if f"| {action} |" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), f"{name(page)}: {target}"
        if anchor:
            titles = re.findall(r"(?m)^#+ (.*)$", linked.read_text())
            assert anchor in {generate._anchor(title) for title in titles}, f"{name(page)}: {target}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = [str(p.relative_to(ROOT / "docs")) for p in PAGES if p.is_relative_to(ROOT / "docs")]
    assert [p for p in pages if p != "index.md" and f"({p})" not in index] == []


def test_the_readme_has_two_commands() -> None:
    commands = [b.text for b in consoles.blocks(ROOT / "README.md") if b.language == "sh"]
    assert [line.split("#")[0].strip() for line in commands[0].splitlines()] == ["make demo", "make test"]


@pytest.mark.kubernetes
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")  # of the test cluster, by this test itself
def test_the_role_of_the_page_is_enough(tmp_path: Path) -> None:
    """Plan, apply, read logs and destroy as the user `nobody`, who has that Role and no more, with a secret value."""
    (role,) = (yaml.safe_load(b.text) for b in consoles.blocks(ROOT / "docs/kubernetes-permissions.md") if b.language)
    with bound(role) as namespace:
        text = SPEC_OF_NOBODY.format(kubeconfig=json.dumps(os.environ["KUBECONFIG"]), namespace=namespace)
        (tmp_path / "flowplan.yaml").write_text(text)
        plan = json.loads(flowplan(tmp_path, "plan", "--format", "json"))
        assert [f for change in plan["changes"] for f in change["preflight"] if f["severity"] == "error"] == []
        flowplan(tmp_path, "apply", "--yes")
        assert "4 characters" in flowplan(tmp_path, "logs", "careful")
        assert "No changes" in flowplan(tmp_path, "plan", "--detailed-exitcode")
        flowplan(tmp_path, "destroy", "--yes")


@pytest.mark.kubernetes
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")  # of the test cluster, by this test itself
def test_the_role_of_the_page_is_the_smallest(tmp_path: Path) -> None:
    """Expect the plan to say what is missing, without any one of its verbs."""
    (role,) = (yaml.safe_load(b.text) for b in consoles.blocks(ROOT / "docs/kubernetes-permissions.md") if b.language)
    wanted = {f"{verb} {rule['resources'][0]}" for rule in role["rules"] for verb in rule["verbs"]}
    with bound({**role, "rules": []}) as namespace:
        text = SPEC_OF_NOBODY.format(kubeconfig=json.dumps(os.environ["KUBECONFIG"]), namespace=namespace)
        (tmp_path / "flowplan.yaml").write_text(text)
        plan = json.loads(flowplan(tmp_path, "plan", "--format", "json"))
    told = [f["message"] for change in plan["changes"] for f in change["preflight"] if f["check"] == "permission"]
    missing = {found[1].removesuffix(".batch") for m in told if (found := re.search(r"not allowed to (\w+ \S+) in", m))}
    assert missing == wanted


SPEC_OF_NOBODY = """\
flowplan: 1
project: careful
providers:
  cluster: {{type: kubernetes, kubeconfig: {kubeconfig}, context: test-nobody, namespace: {namespace}}}
runs:
  careful:
    provider: cluster
    image: busybox:1.35
    command: [sh, -c, 'echo "${{#WORD}} characters"']
    env: {{WORD: {{from_env: A_SECRET_WORD}}}}
"""


def flowplan(directory: Path, *arguments: str) -> str:
    env = {**os.environ, "NO_COLOR": "1", "A_SECRET_WORD": "word"}
    done = subprocess.run(
        [BIN / "flowplan", *arguments], check=False, cwd=directory, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"flowplan {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def bound(role: dict[str, object]) -> Iterator[str]:
    """Make a namespace in which the user `nobody` has a Role."""
    import kubernetes.client
    import kubernetes.config

    client = kubernetes.config.new_client_from_config(os.environ["KUBECONFIG"])
    core = kubernetes.client.CoreV1Api(client)
    rbac = kubernetes.client.RbacAuthorizationV1Api(client)
    namespace = core.create_namespace({"metadata": {"generateName": "role-of-the-page-"}}).metadata.name
    try:
        rbac.create_namespaced_role(namespace, role)
        rbac.create_namespaced_role_binding(
            namespace,
            {
                "metadata": {"name": "nobody"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "flowplan"},
                "subjects": [{"kind": "User", "name": "nobody", "apiGroup": "rbac.authorization.k8s.io"}],
            },
        )
        until(lambda: core.list_namespaced_service_account(namespace).items)
        yield namespace
    finally:
        core.delete_namespace(namespace)
        client.close()


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)
