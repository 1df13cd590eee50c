"""Recordings that cover a maze only in pieces (Ghugare et al. 2024, arXiv 2401.11237).

Whoever learns from them and reaches a goal from a start with which it never shared an
episode has stitched. A maze is covered by overlapping *regions*, sets of cells. Every
episode starts in a region, has its goal in it and never leaves it, so two cells that
share no region are an *unseen* pair: no episode connects them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.sparse import csgraph, csr_array

from rlgen.datasets import Recording
from rlgen.env import Step
from rlgen.envs.pointmaze.controllers import Waypoints
from rlgen.envs.pointmaze.env import PointMaze, PointMazeLevel, cell_of
from rlgen.envs.pointmaze.levels import empty, point_maze
from rlgen.envs.pointmaze.named import named_level
from rlgen.errors import UserError
from rlgen.levels import LevelSet, stack
from rlgen.transitions import Episode

_N_LANES = 512  # episodes played side by side
# Time for an episode, in steps: noise costs a few steps each cell.
_STEPS_PER_MOVE = 12
# So many batches in a row without an episode to keep, and collecting gives up.
_MAX_FRUITLESS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
    """A maze in pieces.

    Attributes:
      walls: bool[H, W].
      cells: for each region, its cells (row, column), int32[n, 2].
      seen: pairs of distinct cells of one region, int32[P, 2, 2]: start, then goal.
      unseen: pairs to test stitching on, likewise; no region holds both cells.
    """

    walls: np.ndarray
    cells: tuple[np.ndarray, ...]
    seen: np.ndarray
    unseen: np.ndarray

    def __post_init__(self):
        for i, cells in enumerate(self.cells):
            if len(cells) < 2 or self.walls[cells[:, 0], cells[:, 1]].any():
                raise UserError(
                    f"Region {i} has {len(cells)} cells: give at least 2, no walls."
                )

    @property
    def inside(self) -> np.ndarray:
        """Which cells belong to each of the R regions. bool[R, H, W]."""
        inside = np.zeros((len(self.cells), *self.walls.shape), bool)
        for mask, cells in zip(inside, self.cells, strict=True):
            mask[cells[:, 0], cells[:, 1]] = True
        return inside


def umaze_regions() -> Regions:
    """The published regions of the U-shaped maze, and its two pairs to test on."""
    top, bottom = [(0, 0), (0, 1), (0, 2)], [(2, 0), (2, 1), (2, 2)]
    cells = (top, bottom, [(0, 2), (1, 2)], [(2, 2), (1, 2)])
    unseen = [((2, 0), (0, 0)), ((0, 0), (2, 0))]
    return _regions(np.asarray(named_level("umaze").walls), cells, unseen)


def make_regions(
    walls: np.ndarray, radius: int, seed: int = 0, min_distance: int = 0
) -> Regions:
    """Covers a maze by regions; the rule is ours.

    A region is what lies within `radius` moves of a centre. Centres are added until
    every move between two free cells lies inside some region: the centre whose region
    brings the most new moves, by lot among equals. So regions overlap along every way
    through the maze, and every unseen pair can be stitched. A free cell without a free
    neighbour belongs to no region.

    Args:
      walls: bool[H, W].
      radius: moves; at least 1.
      seed: of the lots.
      min_distance: fewest moves between the cells of an unseen pair.

    Raises:
      UserError: the radius is not positive, or there is no way in the maze.
    """
    walls = np.asarray(walls, bool)
    if radius < 1:
        raise UserError(f"The radius of regions is {radius}: choose at least 1.")
    free = np.argwhere(~walls)
    apart = _moves_between(walls)
    # Every move between neighbours, once: the numbers of its two cells.
    first, second = np.nonzero(np.triu(apart == 1))
    if not len(first):
        raise UserError("The maze has no two free cells side by side: open a way.")
    within = apart <= radius  # [centre, cell]
    brings = within[:, first] & within[:, second]  # [centre, move]
    lots = np.random.default_rng(seed).random(len(free))
    missing = np.ones(len(first), bool)
    centres: list[int] = []
    while missing.any():
        gain = (brings & missing).sum(axis=1)
        centres.append(int(np.argmax(gain + lots)))  # lots are below 1
        missing &= ~brings[centres[-1]]
    regions = within[centres].astype(np.float32)
    share = regions.T @ regions > 0
    is_far = np.isfinite(apart) & (apart >= max(min_distance, 1))
    start, goal = np.nonzero(is_far & ~share)
    return _regions(
        walls,
        [free[within[centre]] for centre in centres],
        np.stack([free[start], free[goal]], axis=1),
    )


def _regions(walls: np.ndarray, cells: Sequence[Any], unseen: Any) -> Regions:
    """With all pairs of distinct cells of a region as the seen ones."""
    arrays = tuple(np.asarray(region, np.int32) for region in cells)
    return Regions(
        walls=np.asarray(walls, bool),
        cells=arrays,
        seen=np.unique(np.concatenate([_pairs(c) for c in arrays]), axis=0),
        unseen=np.asarray(unseen, np.int32).reshape(-1, 2, 2),
    )


def _moves_between(walls: np.ndarray) -> np.ndarray:
    """Fewest moves between any two of N free cells; infinite without a way. [N, N]."""
    n = int(np.sum(~walls))
    number = np.full(walls.shape, -1)
    number[~walls] = np.arange(n)
    down = np.stack([number[:-1].ravel(), number[1:].ravel()])
    right = np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()])
    moves = np.concatenate([down, right], axis=1)
    moves = moves[:, (moves >= 0).all(axis=0)]
    graph = csr_array((np.ones(moves.shape[1]), (moves[0], moves[1])), shape=(n, n))
    return csgraph.shortest_path(graph, directed=False, unweighted=True)


def collect(
    env: PointMaze,
    regions_list: Sequence[Regions],
    key: jax.Array,
    n_transitions: int,
    noise: float = 0.5,
) -> list[Episode]:
    """Records the scripted agent in regions, round-robin over layouts and regions.

    Start and goal are two cells of the region, drawn anew for each episode; the agent
    takes the shortest way inside the region. Only episodes that reach their goal are
    kept, and only those that never leave the region (noise may push the ball out); they
    end at the goal.

    Args:
      env: of the layouts' size.
      regions_list: layouts; `level_id` of an episode is the place in this list.
      n_transitions: steps to record; the last episode is kept whole.
      noise: of `Waypoints`.

    Raises:
      UserError: no layouts, layouts of another size, or goals that are not reached.
    """
    if n_transitions < 1:
        raise UserError(f"n_transitions is {n_transitions}: choose at least 1.")
    _check_size(regions_list, env.height, env.width)
    slots = _slots(regions_list)
    longest = max(map(_longest_way, slots.inside))
    # One more, since start and goal are not in the centres of their cells.
    n_steps = min(env.max_episode_steps, _STEPS_PER_MOVE * (longest + 1))
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    episodes: list[Episode] = []
    n_kept, n_batches, fruitless = 0, 0, 0
    while n_kept < n_transitions:
        slot = (n_batches * _N_LANES + np.arange(_N_LANES)) % len(slots.layout)
        pair = slots.first_pair[slot] + generator.integers(slots.n_pairs[slot])
        level = PointMazeLevel(
            walls=slots.walls[slots.layout[slot]],
            start=slots.pairs[pair, 0],
            goal=slots.pairs[pair, 1],
        )
        keys = jax.random.split(jax.random.fold_in(key, n_batches), _N_LANES)
        played = _play(env, noise, n_steps, keys, level, slots.inside[slot])
        fresh = _episodes(jax.device_get(played), slots.layout[slot])
        for episode in fresh:
            if n_kept < n_transitions:
                episodes.append(episode)
                n_kept += len(episode)
        n_batches += 1
        fruitless = 0 if fresh else fruitless + 1
        if fruitless == _MAX_FRUITLESS:
            raise UserError(
                f"No episode reached its goal within its region in {n_steps} steps: "
                "choose less noise, a longer max_steps, or regions in which every cell "
                "can be reached."
            )
    return episodes


class _Slots(NamedTuple):
    """All S regions of all layouts, and the pairs of cells in each."""

    walls: Any  # (layouts, H, W)
    layout: Any  # (S,)
    inside: Any  # (S, H, W)
    pairs: Any  # (P, 2, 2), those of a region side by side
    first_pair: Any  # (S,)
    n_pairs: Any  # (S,)


def _slots(regions_list: Sequence[Regions]) -> _Slots:
    pairs = [_pairs(cells) for regions in regions_list for cells in regions.cells]
    n_pairs = np.array([len(p) for p in pairs])
    n_regions = [len(regions.cells) for regions in regions_list]
    return _Slots(
        walls=np.stack([regions.walls for regions in regions_list]),
        layout=np.repeat(np.arange(len(n_regions)), n_regions),
        inside=np.concatenate([regions.inside for regions in regions_list]),
        pairs=np.concatenate(pairs),
        first_pair=np.cumsum(n_pairs) - n_pairs,
        n_pairs=n_pairs,
    )


def _pairs(cells: np.ndarray) -> np.ndarray:
    """All pairs of two distinct cells of a region, int32[n (n - 1), 2, 2]."""
    start, goal = np.nonzero(~np.eye(len(cells), dtype=bool))
    return np.stack([cells[start], cells[goal]], axis=1)


def _longest_way(inside: np.ndarray) -> int:
    """Moves between the two cells of a region that are farthest apart within it."""
    moves = _moves_between(~inside)
    return int(moves[np.isfinite(moves)].max())


def _check_size(regions_list: Sequence[Regions], height: int, width: int) -> None:
    if not regions_list:
        raise UserError("There are no layouts to play in: give at least one.")
    for regions in regions_list:
        if regions.walls.shape != (height, width):
            raise UserError(
                f"A layout is {'x'.join(map(str, regions.walls.shape))}, but "
                f"{height}x{width} is needed: set height and width to match it."
            )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
@functools.partial(jax.vmap, in_axes=(None, None, None, 0, 0, 0))
def _play(
    env: PointMaze,
    noise: float,
    n_steps: int,
    key: jax.Array,
    level: PointMazeLevel,
    inside: jax.Array,
) -> tuple[jax.Array, Step, jax.Array, jax.Array]:
    """Plays on, whatever happens: first observation, steps, actions, and where left."""
    controller = Waypoints(noise)
    known = level.replace(walls=level.walls | ~inside)
    key_reset, key_play = jax.random.split(key)
    state, first_obs = env.reset(key_reset, level)

    def play(state, key):
        key_act, key_step = jax.random.split(key)
        action = controller(key_act, known, state)
        step = env.step(key_step, level, state, action)
        row, column = cell_of(step.state.position)
        return step.state, (step.replace(state=None), action, ~inside[row, column])

    _, (steps, actions, left) = jax.lax.scan(
        play, state, jax.random.split(key_play, n_steps)
    )
    return first_obs, steps, actions, left


def _episodes(played: Any, level_ids: np.ndarray) -> list[Episode]:
    """Those lanes that arrive without leaving their region, each cut at its goal."""
    first_obs, steps, actions, left = played
    success = steps.info["success"]
    length = np.argmax(success, axis=1) + 1
    episodes = []
    for lane, n in enumerate(length.tolist()):
        if not success[lane, n - 1] or left[lane, :n].any():
            continue
        terminations = steps.terminated[lane, :n]
        episodes.append(
            Episode(
                observations=np.concatenate(
                    [first_obs[lane][None], steps.obs[lane, :n]]
                ),
                actions=actions[lane, :n],
                rewards=steps.reward[lane, :n],
                terminations=terminations,
                # With dense rewards nothing ends at the goal but the recording.
                truncations=(np.arange(n) == n - 1) & ~terminations,
                level_id=int(level_ids[lane]),
            )
        )
    return episodes


def pair_levels(
    regions: Regions | Sequence[Regions], which: str, n: int, seed: int = 0
) -> LevelSet[PointMazeLevel]:
    """Levels whose starts and goals are seen or unseen pairs, to evaluate on.

    Args:
      regions: a layout, or several of one size.
      which: "seen" or "unseen".
      n: how many; all that there are, if those are fewer.
      seed: of the choice.

    Raises:
      UserError: there are no such pairs.
    """
    if which not in ("seen", "unseen"):
        raise UserError(f"Unknown pairs {which!r}: choose seen or unseen.")
    layouts = [regions] if isinstance(regions, Regions) else list(regions)
    _check_size(layouts, *(layouts[0].walls.shape if layouts else (0, 0)))
    pairs = [(i, pair) for i, r in enumerate(layouts) for pair in getattr(r, which)]
    if not pairs or n < 1:
        raise UserError(
            f"{n} of {len(pairs)} {which} pairs make no level set: choose a smaller "
            "radius or min_distance, and n of at least 1."
        )
    order = np.random.default_rng(seed).permutation(len(pairs))[:n]
    chosen = [pairs[i] for i in np.sort(order)]
    return LevelSet.from_levels(
        empty(*layouts[0].walls.shape),
        stack([point_maze(layouts[i].walls, *pair) for i, pair in chosen]),
        name=f"{which} pairs",
        split="named",
        labels=tuple(
            f"{i}: {_name(pair[0])} to {_name(pair[1])}" for i, pair in chosen
        ),
        provenance={"source": "rlgen/envs/pointmaze/stitching.py", "seed": seed},
    )


def _name(cell: np.ndarray) -> str:
    return f"({cell[0]},{cell[1]})"


_RADIUS = 2  # moves; of regions that are made
_N_LAYOUTS = 16
_N_PAIRS = 200  # to evaluate on, at most, of each kind


def record(config: Any, name: str, n_transitions: int, seed: int) -> Recording:
    """Records mazes in pieces, with seen and unseen pairs to evaluate on.

    Args:
      config: settings of point mazes (`PointMazeConfig`).
      name: a named maze ("umaze" in its published regions), or "levels": so many mazes
        of the train split of the configured family.
    """
    if name == "levels":
        train = LevelSet.generate(
            config.heldout_space(), _N_LAYOUTS, seed=seed, split="train"
        )
        walls = list(np.asarray(train.levels.walls))
    else:
        walls = [np.asarray(named_level(name).walls)]
        height, width = walls[0].shape
        config = dataclasses.replace(config, height=height, width=width)
    layouts = (
        [umaze_regions()]
        if name == "umaze"
        else [make_regions(w, _RADIUS, seed, 2 * _RADIUS) for w in walls]
    )
    tests = [
        pair_levels(layouts, which, _N_PAIRS, seed) for which in ("seen", "unseen")
    ]
    episodes = collect(config.make_env(), layouts, jax.random.key(seed), n_transitions)
    first = [point_maze(r.walls, *r.seen[0]) for r in layouts]
    level_set = LevelSet.from_levels(
        config.make_space(),
        stack(first),
        name="layouts",
        split="train",
        provenance={"source": "rlgen/envs/pointmaze/stitching.py", "seed": seed},
    )
    return Recording(config, episodes, level_set, {t.name: t for t in tests})
