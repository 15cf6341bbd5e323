"""The page of 10,000 runs with 50,000 attempts: small enough to be mailed, and what it leaves out is told."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import plans_by_hand as by_hand
import pytest
import stores
from browser import Browser

from flowplan import webpage
from flowplan.render.plan_page import plan_view
from flowplan.reporting import report_of, report_of_plan
from flowplan.schemas.codec import encode
from flowplan.schemas.plans import Action
from flowplan.schemas.runs import Recorded, Settings, Status, run_id
from flowplan.state.store import Store

RUNS, ATTEMPTS, FAILING = 10_000, 5, 7


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Make a state whose runs ended at all kinds of times; every seventh attempt failed, and wrote 2 KB that no two share."""
    with stores.fresh("sqlite", tmp_path_factory.mktemp("big")) as store:
        fill(store)
        yield store


def fill(store: Store) -> None:
    """Record the runs in an empty state."""
    first = stores.record(store, "a[i=0]")
    with store.changing("test") as journal:
        for attempt in range(1, ATTEMPTS + 1):
            made = [_attempt(store, first, place, attempt) for place in range(RUNS)]
            journal.put(made)
            failed = [record.run_id for record in made if record.status is Status.FAILED]
            journal.put_tails({one: _written(one) for one in failed})


def _written(name: str) -> str:
    return "\n".join(hashlib.sha256(f"{name} {n}".encode()).hexdigest() for n in range(30))


def _attempt(store: Store, first: Recorded, place: int, attempt: int) -> Recorded:
    group, cell = divmod(place, 500)
    address = f"run{group}[i={cell}]"
    second = (place * 7919 + attempt * 104729) % 86400
    start = f"2026-11-{attempt:02}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.{place % 1000:03}Z"
    end = (
        f"2026-11-{attempt + 1:02}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.{place * 31 % 1000:03}Z"
    )
    failed = (place + attempt) % FAILING == 0
    argv = ["python", "-m", "train", "--cell", str(cell), "--group", str(group)]
    return replace(
        first,
        address=address,
        attempt=attempt,
        run_id=run_id(store.lineage, address, attempt),
        name=f"p-run{group}-{cell}-{attempt}",
        objects={"Process": {"argv": argv, "env": {f"NAME_{n}": "value" for n in range(10)}}},
        settings=Settings(group=f"run{group}", needs=(f"run{group - 1}[i={cell}]",) if group else ()),
        status=Status.FAILED if failed else Status.SUCCEEDED,
        reason="Error" if failed else "",
        exit_code=3 if failed else 0,
        attempts=1,
        created_at=start,
        started_at=start,
        finished_at=end,
    )


def test_a_big_project_is_below_5_mb_and_has_the_end_of_every_failure(big: Store) -> None:
    document = report_of(big)
    assert len(document.runs.address) == RUNS and len(document.attempts.run) == RUNS * ATTEMPTS
    page = webpage.page(encode(document))
    assert len(page) < 5_000_000
    failures = sum(1 for status in document.attempts.status if document.strings[status] == "failed")
    assert failures > RUNS * ATTEMPTS / 8
    shown = len(document.outputs)
    [missing] = [
        re.match(r"The output of (\d+) of (\d+) attempts", said) or said
        for said in document.left_out
        if "is not here" in said
    ]
    assert isinstance(missing, re.Match) and int(missing[1]) == failures - shown and int(missing[2]) == failures
    stands = {document.runs.attempt[n] for n in range(RUNS)}
    assert all(output.attempt in stands for output in document.outputs[:100])  # what failed last comes first


def test_what_has_no_room_is_left_out_and_told(big: Store) -> None:
    document = report_of(big, most=1 << 20)
    assert webpage.size(encode(document)) < 1 << 20
    said = " ".join(document.left_out)
    assert "`flowplan history` shows all" in said and "`flowplan state show ADDR` shows all" in said
    assert len(document.runs.address) == RUNS
    newest = document.runs.attempt
    assert all(row is not None and document.attempts.number[row] == ATTEMPTS for row in newest)
    assert json.loads(webpage.json_text(encode(document)))["format_version"] == "1.0"


def test_a_plan_of_many_different_changes_keeps_the_objects_of_those_that_hurt() -> None:
    def command(name: str) -> tuple[str, ...]:
        return tuple(_written(name).split())

    changes = [
        by_hand.change(f"r{n}", Action.CREATE, after=by_hand.job(f"r{n}", "i", command(f"r{n}"))) for n in range(400)
    ]
    made = by_hand.plan(*changes, by_hand.image_bump("hurts", run=by_hand.live(), interrupts=True))
    view = plan_view(made, {}, "file")
    assert len(view.groups) == 401 and all(group.objects and group.explained for group in view.groups)
    most = 300_000 - webpage.room(0)
    document = report_of_plan(view, made.changes, most)
    assert document.plan and len(document.plan.groups) == 401
    assert webpage.size(encode(document), most) <= 300_000
    shown = [bool(group.objects) for group in document.plan.groups]
    assert document.plan.groups[0].addresses == ("hurts",) and shown[0] and shown == sorted(shown, reverse=True)
    assert any("Whole objects are here of the first" in said and "--full" in said for said in document.left_out)
    assert {document.strings[status] for status in document.runs.status} == {"planned"}


def test_a_document_is_compressed_where_that_makes_it_fit() -> None:
    document = {"project": "p", "text": "a<" * 10_000}
    assert 'type="application/json"' in webpage.page(document)
    most = 5000 - webpage.room(0)
    page = webpage.page(document, most)
    assert 'type="application/gzip+json"' in page and len(page) <= most


def test_a_browser_shows_every_view_of_it(big: Store, browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "big.html"
    page.write_text(webpage.page(encode(report_of(big))), encoding="ascii")
    browser.open(page)
    browser.complaints()
    assert browser.evaluate("document.querySelector('[aria-label=Runs]').ariaRowCount") == str(RUNS // 500)
    browser.go("now?status=failed")
    assert browser.evaluate("document.querySelector('[aria-label=Runs]').ariaRowCount > 1000")
    assert browser.evaluate("document.querySelectorAll('[role=row]').length < 100"), "the others are not in the page"
    browser.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    browser.until(
        "document.querySelector('[role=row]:last-child').ariaRowIndex === document.querySelector('.list').ariaRowCount"
    )
    browser.go("timeline?span=all")
    assert browser.evaluate("document.querySelector('.timeline-rows').ariaLabel") == "Timeline of 10,000 runs"
    browser.go("graph")
    assert browser.evaluate("document.querySelectorAll('.node').length") == RUNS / 500
    browser.go("history")
    assert browser.evaluate("document.querySelector('[aria-label=History]').ariaRowCount") == str(RUNS)
    browser.go("run/run3%5Bi%3D7%5D")
    assert browser.evaluate("document.querySelectorAll('tbody tr').length") == ATTEMPTS
    browser.go("plan")
    assert browser.text("main") and browser.text(".left-out")
    assert browser.complaints() == []
