"""The ``slurm`` provider: runs are batch jobs of a Slurm cluster, by its own commands, here or over ssh."""

from __future__ import annotations

from flowplan.providers.protocol import Context, Provider


def connect(context: Context) -> Provider:
    """Return a connection to a cluster; nothing is sent before it is used."""
    from flowplan.providers.slurm.provider import SlurmProvider

    return SlurmProvider(context)
