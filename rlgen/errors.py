"""The error that users see: one sentence that says what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message is one sentence; the CLI prints it and exits with 2.

    Not a `ValueError`: argument parsers catch those and wrap their text in boxes.
    """


def exit_code(main: Callable[[], None]) -> int:
    """Runs a script: 0, or 2 with the sentence of a `UserError` on standard error."""
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
