"""The doing half of the ``kubernetes`` provider: Jobs on a real API server, from creation to their end."""

from __future__ import annotations

from flowplan.providers.protocol import Context, Provider


def connect(context: Context) -> Provider:
    """Return the provider for the cluster that ``context.settings`` names; nothing is sent before it is used.

    Raises:
        ProviderError: the kubeconfig cannot be read or names no such context.
    """
    from flowplan.providers.kubernetes.connection import endpoint
    from flowplan.providers.kubernetes.provider import KubernetesProvider
    from flowplan.providers.kubernetes.requests import Api

    return KubernetesProvider(Api(endpoint(context.settings, context.spec_dir)), context)
