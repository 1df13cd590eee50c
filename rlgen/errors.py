"""The error that users see: one sentence that says what to do."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message is one sentence; the CLI prints it and exits with 2.

    Not a `ValueError`: argument parsers catch those and wrap their text in boxes.
    """
