"""What a registry says of an image before a run needs it: each image is asked for once, together, and never for long."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection
from typing import Literal, NamedTuple, TypeVar

from flowplan.schemas.images import parse_image
from flowplan.schemas.plans import Finding

LIMIT = 10.0
"""Seconds after which nothing more is waited for, whatever the number of images."""

PATIENCE = 5.0
"""Seconds that one registry may be silent before its other images are not asked for any more."""

_THREADS = 16

Q = TypeVar("Q")


class Answer(NamedTuple):
    """What is known of an image.

    Attributes:
        verdict: ``there`` also means that nothing speaks against it. Of a registry that is ``silent`` nothing more is asked.
        words: the registry's, or why nothing is known.
        hint: what to do where a login was refused.
    """

    verdict: Literal["there", "missing", "refused", "unknown", "silent"]
    words: str = ""
    hint: str = ""


THERE = Answer("there")
_LATE = Answer("silent", f"no answer within {LIMIT:g}s")


def registry_of(image: str) -> str:
    """Return ``h:5000`` of ``h:5000/a:1``, ``docker.io`` where none is written."""
    return parse_image(image).registry


def asked(questions: Collection[Q], image: Callable[[Q], str], ask: Callable[[Q], Answer]) -> dict[Q, Answer]:
    """Return the answer to each question; one that is late, or whose registry was silent before, is ``silent``.

    The threads are not waited for, so that no silent registry and no hanging credential helper holds a command up.

    Args:
        image: of a question.
        ask: called for each question from several threads, may raise nothing.
    """
    waiting: queue.SimpleQueue[Q] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[Q, Answer]] = queue.SimpleQueue()
    silent: dict[str, Answer] = {}
    for question in questions:
        waiting.put(question)

    def work() -> None:
        while True:
            try:
                question = waiting.get_nowait()
            except queue.Empty:
                return
            registry = registry_of(image(question))
            answer = silent.get(registry) or ask(question)
            if answer.verdict == "silent":
                answer = silent.setdefault(registry, answer)
            answers.put((question, answer))

    for _ in range(min(_THREADS, len(questions))):
        threading.Thread(target=work, name="preflight-registry", daemon=True).start()
    found: dict[Q, Answer] = {}
    deadline = time.monotonic() + LIMIT
    while len(found) < len(questions) and (rest := deadline - time.monotonic()) > 0:
        try:
            question, answer = answers.get(timeout=rest)
        except queue.Empty:
            break
        found[question] = answer
    return {question: found.get(question, _LATE) for question in questions}


def finding(address: str, image: str, answer: Answer) -> Finding | None:
    """Return what a run is told of its image; None where nothing speaks against it."""
    registry, words = registry_of(image), f": {answer.words}" if answer.words else ""
    match answer.verdict:
        case "missing":
            message, hint = f"registry {registry} does not have {image}{words}", "correct its name or tag, or push it"
            return Finding(address, "error", "image", message, hint)
        case "refused":
            return Finding(address, "error", "login", f"registry {registry} refuses {image}{words}", answer.hint)
        case "unknown" | "silent":  # a registry that is silent is told once for all its images
            what = image if answer.verdict == "unknown" else f"images of registry {registry}"
            return Finding(
                address, "warning", "image", f"whether {what} can be pulled is not known{words}", answer.hint
            )
    return None
