"""The error that users see: one sentence that says what to do."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message is one sentence; the CLI prints it and exits with 2."""
