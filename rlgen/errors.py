"""The error that users see: one sentence that says what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable

#: Exit code of a command that found its run in use: try again later.
BUSY = 75


class UserError(Exception):
    """Bad input. The message is one sentence; the CLI prints it and exits with `code`.

    Not a `ValueError`: argument parsers catch those and wrap their text in boxes.
    """

    code = 2


class Busy(UserError):
    """Another process works on it."""

    code = BUSY


def exit_code(main: Callable[[], None]) -> int:
    """Runs a script: 0, or not with the sentence of a `UserError` on standard error."""
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        return error.code
    return 0
