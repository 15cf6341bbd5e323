"""The command: the only code that orchestrates and prints."""

__version__ = "0.1.0"
