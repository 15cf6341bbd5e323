"""What flowplan finds behind the entry point: ``manifests``, the pure half, and ``connect``, which gives the doing half."""

from flowplan_notes import manifests
from flowplan_notes.provider import connect

__all__ = ["connect", "manifests"]
