"""What the numbers among settings may be: said beside each, checked when they are made.

A class of settings is a frozen dataclass that derives from `Settings`; the type of a
number says its range::

    @dataclasses.dataclass(frozen=True)
    class PoolConfig(Settings):
        pool_size: Count = 256
        target: Share = 0.5

Imports no jax.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping
from numbers import Real
from typing import Annotated, Any

from rlgen.errors import UserError

#: What fits into an array of int32, and of float32 (there 1e39 is infinite).
MAX_INT = 2**31 - 1
MAX_FLOAT = 3.4e38


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers between bounds; never NaN, and never infinite.

    Attributes:
      least, most: bounds that belong to it.
      above, below: bounds that do not.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: Any) -> bool:
        return (
            self.least <= value <= self.most
            and self.above < value < self.below
            and -MAX_FLOAT <= value <= MAX_FLOAT
        )

    def __str__(self) -> str:
        if math.isfinite(self.least + self.most) and self.most != MAX_INT:
            return f"{self.least} to {self.most}"
        bounds = {
            "at least": self.least,
            "more than": self.above,
            "at most": self.most,
            "less than": self.below,
        }
        said = [
            f"{word} {bound}"
            for word, bound in bounds.items()
            if math.isfinite(bound) and bound != MAX_INT  # which goes without saying
        ]
        return " and ".join(said) or "any number"

    def around(self, what: str) -> str:
        """In signs, for command lines: "1<=INT", "0<=FLOAT<1"."""
        left = f"{self.above}<" if math.isfinite(self.above) else f"{self.least}<="
        right = f"<{self.below}" if math.isfinite(self.below) else f"<={self.most}"
        if self.most == MAX_INT or right == "<=inf":
            right = ""
        return f"{left}{what}{right}".removeprefix("-inf<=")

    def refusal(self, name: str, value: Any) -> str:
        """The sentence that refuses a value that is not in it."""
        choose = str(self)
        if not abs(value) <= MAX_FLOAT:
            choose += ", and finite as a float32"
        elif value > MAX_INT == self.most:
            choose += f" and at most {MAX_INT}"
        return f"{name} is {value}: choose {choose}."


#: A number of things that there are some of, or may be none of.
Count = Annotated[int, Range(least=1, most=MAX_INT)]
CountOrZero = Annotated[int, Range(least=0, most=MAX_INT)]
#: What `jax.random.key` tells apart: of a larger number it takes the last 32 bits.
SEEDS = Range(least=0, most=2**32 - 1)
Seed = Annotated[int, SEEDS]

Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(above=0)]
#: Learning rates (0 for what shall not learn), weights of terms in a loss, deviations.
PositiveOrZero = Annotated[float, Range(least=0)]

#: Probabilities, shares and discounts, with or without their ends.
Share = Annotated[float, Range(least=0, most=1)]
ShareAboveZero = Annotated[float, Range(above=0, most=1)]
ShareBelowOne = Annotated[float, Range(least=0, below=1)]
ShareBetween = Annotated[float, Range(above=0, below=1)]


@functools.cache
def ranges(settings: type) -> Mapping[str, Range]:
    """The ranges that a class of settings declares, by the name of the field."""
    hints = typing.get_type_hints(settings, include_extras=True)
    return {name: said for name, hint in hints.items() if (said := _said(hint))}


def _said(hint: Any) -> Range | None:
    """The range in a type, wherever it is: `Count | None`, `tuple[Count, ...]`."""
    for part in (*getattr(hint, "__metadata__", ()), *typing.get_args(hint)):
        found = part if isinstance(part, Range) else _said(part)
        if found is not None:
            return found
    return None


def check_ranges(settings: Any) -> None:
    """Checks the numbers of a dataclass, and of those inside it.

    Numbers for which no range is declared must be finite; what is no number (a word in
    place of one, None) passes.

    Raises:
      UserError: one is outside its range.
    """
    declared = ranges(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            check_ranges(value)
        allowed = declared.get(field.name, Range())
        numbers: tuple[Any, ...] = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            is_number = isinstance(number, Real) and not isinstance(number, bool)
            if is_number and number not in allowed:
                raise UserError(allowed.refusal(field.name, number))


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of every class of settings: its numbers are within their ranges.

    Raises:
      UserError: one is not.
    """

    def __post_init__(self):
        check_ranges(self)
