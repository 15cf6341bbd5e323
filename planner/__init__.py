"""Decide: pure functions from documents to a plan; no clock, file, client, database or print."""
