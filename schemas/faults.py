"""Named points between two effects at which the fault harness ends flowplan, to see what the next command makes of it."""

from __future__ import annotations

import os
import signal

_NAME, _, _COUNT = os.environ.get("FLOWPLAN_FAULT", "").partition("@")
_SIGNAL = os.environ.get("FLOWPLAN_FAULT_SIGNAL", "SIGKILL")
_left = int(_COUNT) if _COUNT.isdecimal() else 1


def point(name: str) -> None:
    """Do nothing, unless FLOWPLAN_FAULT is ``name`` or ``name@3``: then end by SIGKILL, here, at the third passing.

    FLOWPLAN_FAULT_SIGNAL=SIGSTOP freezes it there instead.

    Args:
        name: where this is, ``layer:effect:before`` or ``layer:effect:after``; unique in the sources.
    """
    global _left
    if name == _NAME:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.Signals[_SIGNAL])
