"""The ``process`` provider: runs are processes of this host, watched over by a small supervisor."""

from __future__ import annotations

TYPE_CHECKING = False  # the supervisor imports from here, and `typing` would double its memory
if TYPE_CHECKING:
    from flowplan.providers.protocol import Context, Provider


def connect(context: Context) -> Provider:
    """Return a connection to this host.

    Raises:
        ProviderError: this is not a Linux host with /proc.
    """
    from flowplan.providers.process.provider import ProcessProvider

    return ProcessProvider(context)
