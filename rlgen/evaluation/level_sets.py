"""What the levels of a set stand for: others like them, or themselves."""

from __future__ import annotations


def is_sample(name: str) -> bool:
    """Whether the levels of a set stand for others like them, told by its name.

    Named levels (`named`, `named 13x13`) and the pairs of start and goal of stitching
    (`seen pairs`) stand for themselves: there are no others, so no interval redraws
    them. Sets of the split "named" are called so, which a test holds.
    """
    return not (name == "named" or name.startswith("named ") or name.endswith(" pairs"))
