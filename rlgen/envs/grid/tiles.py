"""What a cell of a grid can hold, and its colour in pictures."""

from __future__ import annotations

import enum

import numpy as np


class Tile(enum.IntEnum):
    """Tile indices as they stand in observations."""

    UNSEEN = 0
    EMPTY = 1
    WALL = 2
    GOAL = 3
    AGENT = 4  # only in the full view: an egocentric view never shows the agent
    LAVA = 5
    MOSS = 6


N_TILES = len(Tile)

# Colour-blind safe: floor, walls, lava and goal differ in lightness and in hue.
TILE_COLOURS = np.array(
    [
        [60, 60, 70],  # UNSEEN
        [246, 244, 238],  # EMPTY
        [58, 66, 84],  # WALL
        [42, 157, 103],  # GOAL
        [214, 73, 51],  # AGENT
        [244, 162, 64],  # LAVA
        [188, 218, 164],  # MOSS
    ],
    np.uint8,
)
