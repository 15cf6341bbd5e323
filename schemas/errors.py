"""The exception tree; each error carries the exit code of the command and sentences made for the user.

FlowplanError                exit 1
├── InvalidInput             exit 7   spec, variable, template, manifest or option; holds every fault found
├── StateError               exit 1   the state cannot be read or written, is damaged or too new
│   ├── StateFull            exit 1   its disk has no room, or fails; what was committed is kept
│   └── StateLocked          exit 5   another flowplan holds the writer's lock
│       └── LockLost         exit 5   this one held it, and holds it no more
├── PlanStale                exit 4   what would happen now is not what was reviewed
├── Refused                  exit 6   protected run, wrong target, policy
└── ProviderError            exit 1   an engine answered with a refusal
    ├── EngineUnreachable    exit 1   an engine did not answer; never a reason to call a run lost
    └── StartFailed          exit 1   the engine took the run but it could not start; nothing was left behind
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from flowplan.schemas.sources import Diagnostic, Position


class FlowplanError(Exception):
    """An error for the user: what happened, where, and what to do.

    Args:
        message: one sentence, without a trailing newline.
        hint: what to do about it, or "".
        address: the run it is about, or "".
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", address: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.address = address

    def __str__(self) -> str:
        where = f"{self.address}: " if self.address else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.message}{hint}"

    def conceal(self, redact: Callable[[str], str]) -> None:
        """Pass everything that the error says through ``redact``."""
        self.message, self.hint, self.address = redact(self.message), redact(self.hint), redact(self.address)
        self.args = (self.message,)


@contextmanager
def concealing(redact: Callable[[str], str]) -> Iterator[None]:
    """Pass every error that leaves the block through ``redact``, a redactor that may learn secrets meanwhile."""
    try:
        yield
    except FlowplanError as error:
        error.conceal(redact)
        raise


class InvalidInput(FlowplanError):
    """A spec, variable, template, manifest, plan file or option is not valid; carries all faults at once.

    Args:
        diagnostics: the faults; or the message of the only one, with the further arguments of a ``Diagnostic``.
    """

    exit_code = 7

    def __init__(
        self, diagnostics: Sequence[Diagnostic] | str, *, at: Position | None = None, subject: str = "", hint: str = ""
    ) -> None:
        if isinstance(diagnostics, str):
            diagnostics = [Diagnostic(diagnostics, at, subject, hint)]
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(str(d) for d in self.diagnostics))

    def conceal(self, redact: Callable[[str], str]) -> None:
        """Pass everything that the error says through ``redact``."""
        super().conceal(redact)
        self.diagnostics = tuple(
            d._replace(message=redact(d.message), subject=redact(d.subject), hint=redact(d.hint))
            for d in self.diagnostics
        )

    def __str__(self) -> str:
        return self.message


class StateError(FlowplanError):
    """The state cannot be read or written, is damaged, or was written by a newer flowplan."""


class StateFull(StateError):
    """The disk of the state has no room, or reports an error; what was committed is kept."""


class StateLocked(StateError):
    """Another process holds the writer's lock; the message names it."""

    exit_code = 5


class LockLost(StateLocked):
    """The writer's lock was lost while it was needed: another process may act by now, so that this one must not."""


class PlanStale(FlowplanError):
    """What would happen now differs from what was reviewed; nothing was written."""

    exit_code = 4


class Refused(FlowplanError):
    """A protected run, a wrong target or a policy forbids it; nothing was written."""

    exit_code = 6


class ProviderError(FlowplanError):
    """An engine refused a request, in its own words.

    Args:
        reason: the engine's word for it (``Forbidden``, ``NotFound``, ``Conflict``...), or "".
    """

    def __init__(self, message: str, *, hint: str = "", address: str = "", reason: str = "") -> None:
        super().__init__(message, hint=hint, address=address)
        self.reason = reason

    @property
    def passing(self) -> bool:
        """Return whether the same may go well later: nobody answered, or credentials were not accepted, as expired ones are."""
        return isinstance(self, EngineUnreachable) or self.reason == "Unauthorized"


class EngineUnreachable(ProviderError):
    """An engine did not answer: which endpoint, and how to fix it. Says nothing about any run."""


class StartFailed(ProviderError):
    """The engine could not start the run; nothing of this attempt is left on the engine.

    Args:
        exit_code_of_run: what a shell would report (126, 127), or None when it is not known.
    """

    def __init__(
        self, message: str, *, hint: str = "", address: str = "", reason: str = "", exit_code_of_run: int | None = None
    ) -> None:
        super().__init__(message, hint=hint, address=address, reason=reason)
        self.exit_code_of_run = exit_code_of_run
