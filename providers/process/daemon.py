"""Sets up the supervisor and its guard: two processes that have left the caller's terminal, session and process tree.

The guard is the supervisor's parent. When the supervisor is killed, the runs become the guard's children, and it goes on
with them as a supervisor without a guard.
"""

from __future__ import annotations

import _socket
import gc
import os
import resource
import signal

from flowplan.providers.process.guard import Guard, UnwrittenOutput
from flowplan.providers.process.members import inherit_orphans
from flowplan.providers.process.starting import FULL, NO_ROOM
from flowplan.providers.process.supervising import Supervisor

CLEARED = tuple(signal.Signals[f"SIG{name}"] for name in ("HUP", "INT", "QUIT", "TERM", "CHLD", "PIPE", "XFSZ"))
"""Signals that we, or whoever started us, may treat in a way that a program does not expect. They get handlers that do
nothing, which exec takes away: what is ignored would stay so in the program."""


def main(runs_dir: str) -> None:
    """Leave the caller, fork the supervisor, and stand by."""
    try:
        if os.fork():
            os._exit(0)
    except OSError as error:
        os._exit(NO_ROOM if error.errno in FULL else 1)
    for number in CLEARED:
        signal.signal(number, lambda *_: None)
    os.chdir(runs_dir)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)  # the runs get these; the supervisor takes all it may have
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    unwritten = UnwrittenOutput()
    inherit_orphans()
    gc.freeze()  # what a collection does not look at stays shared with the children
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        serving = os.fork()
    except OSError:  # no room for a second process
        _serve(Supervisor(None, unwritten, limits))
        return
    if serving == 0:
        ours.close()
        os.setsid()  # whoever kills one of the two by its group does not kill the other
        inherit_orphans()
        _serve(Supervisor(theirs, unwritten, limits))
        return
    theirs.close()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    known = Guard(ours).stand_by()
    os.waitpid(serving, 0)  # what it leaves is ours once it is gone
    if known:
        successor = Supervisor(None, unwritten, limits)
        successor.take_over(known)
        successor.serve()


def _serve(supervisor: Supervisor) -> None:
    supervisor.client.listen()
    supervisor.serve()
