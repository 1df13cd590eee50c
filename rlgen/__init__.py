"""rlgen: does what was learned here hold on levels never seen?"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "train"]

if TYPE_CHECKING:
    from rlgen.training import train


def __getattr__(name: str):
    # `import rlgen` stays instant: jax is imported with the first use of `train`.
    if name == "train":
        from rlgen.training import train

        return train
    raise AttributeError(f"module rlgen has no attribute {name}")
