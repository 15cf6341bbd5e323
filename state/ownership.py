"""To whom a state belongs: its project, its lineage, and the place where it is at home."""

from __future__ import annotations

from flowplan.schemas.errors import Refused
from flowplan.schemas.runs import scope
from flowplan.state.store import Store, new_identity


def settle(store: Store) -> None:
    """Make the place of a state its home, wherever that was before."""
    with store.changing("settle") as journal:
        journal.identify(**store.here())
    store.identify()


def start_lineage(store: Store) -> list[str]:
    """Make a state one of its own, with a new lineage and a new key, at home where it is.

    Its history stays. What it managed carries the labels of the old lineage, and is not managed any more.

    Returns:
        The addresses that were managed.
    """
    managed = list(store.records())
    store.forget(managed)
    with store.changing("start_lineage") as journal:
        journal.absent(store.run_ids())
        for table in ("notes", "steps", "plans"):  # what is in them was made with the old key
            journal.db.execute(f"DELETE FROM {table}")
        lineage, key = new_identity()
        journal.identify(lineage=lineage, key=key, **store.here())
    store.identify()
    return managed


def refuse_other(store: Store, project: str, environment: str) -> None:
    """Refuse a state with records of another project, or of another environment of the same one."""
    if store.scope not in (None, scope(project, environment)) and store.records():
        raise Refused(
            f"the state {store.location} belongs to {_told(store.project or '', store.environment)}, "
            f"not to {_told(project, environment)}",
            hint="--state names another one; `flowplan destroy` first gives this one free",
        )


def _told(project: str, environment: str) -> str:
    return f"environment {environment} of project {project}" if environment else f"project {project}"


def claim_project(store: Store, project: str, environment: str = "") -> None:
    """Make a state belong to ``project``, in an environment where it has some; refuse that of another one."""
    if store.scope == scope(project, environment):
        return
    with store.changing("claim_project") as journal:
        refuse_other(store, project, environment)
        journal.identify(project=scope(project, environment))


def take_lineage(store: Store, lineage: str) -> None:
    """Give an empty state the lineage of one that was lost, so that what carries its labels is its own again.

    Raises:
        Refused: attempts are recorded under the lineage that the state has.
    """
    with store.changing("take_lineage") as journal:
        if lineage == store.lineage:
            return
        if store.run_ids():
            raise Refused(
                f"the state {store.location} has records of lineage {store.lineage}, not of {lineage}",
                hint="rebuild into an empty state, named with --state",
            )
        journal.identify(lineage=lineage)
    store.identify()
