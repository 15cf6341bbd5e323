"""The doing half of the docker provider: containers on one Docker Engine."""

from __future__ import annotations

from flowplan.providers.protocol import Context, Provider


def connect(context: Context) -> Provider:
    """Return a provider for the Engine that ``context.settings`` or the environment names.

    Nothing is sent before the first call of a method.
    """
    from flowplan.providers.docker.provider import DockerProvider  # loads the docker package, which takes 100 ms

    return DockerProvider(context)
