"""Regions that cover a maze, pairs that no episode connects, and the recording."""

import collections
import functools
import itertools

import jax
import numpy as np
import pytest

from rlgen import transitions
from rlgen.envs.pointmaze import PointMaze, named, stitching
from rlgen.envs.pointmaze.stitching import Regions, make_regions, umaze_regions
from rlgen.errors import UserError

KEY = jax.random.key(0)
MEDIUM = np.asarray(named.named_level("medium").walls)
LARGE = np.asarray(named.named_level("large").walls)
RING = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
N_STEPS = 15_000


def breadth_first(walls, start):
    """Moves from a cell to all that can be reached: a check apart from the package."""
    moves, queue = {start: 0}, collections.deque([start])
    while queue:
        row, column = queue.popleft()
        for d_row, d_column in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            cell = row + d_row, column + d_column
            inside = 0 <= cell[0] < walls.shape[0] and 0 <= cell[1] < walls.shape[1]
            if inside and not walls[cell] and cell not in moves:
                moves[cell] = moves[row, column] + 1
                queue.append(cell)
    return moves


def pairs_of(array):
    return {tuple(map(tuple, pair)) for pair in array.tolist()}


def cells_of(regions):
    return [set(map(tuple, cells.tolist())) for cells in regions.cells]


def test_the_u_maze_has_its_published_regions():
    regions = umaze_regions()
    published = [
        {(1, 1), (1, 2), (1, 3)},
        {(3, 1), (3, 2), (3, 3)},
        {(1, 3), (2, 3)},
        {(3, 3), (2, 3)},
    ]  # with the border
    ours = [{(r + 1, c + 1) for r, c in cells} for cells in cells_of(regions)]
    assert ours == published
    assert pairs_of(regions.unseen + 1) == {((3, 1), (1, 1)), ((1, 1), (3, 1))}
    assert len(regions.seen) == 6 + 6 + 2 + 2
    assert not pairs_of(regions.seen) & pairs_of(regions.unseen)


@pytest.mark.parametrize(
    "walls", [MEDIUM, LARGE, RING], ids=["medium", "large", "ring"]
)
@pytest.mark.parametrize("radius", [1, 3])
def test_regions_cover_every_way(walls, radius):
    regions = make_regions(walls, radius, seed=1)
    moves = {
        tuple(cell): breadth_first(walls, tuple(cell))
        for cell in np.argwhere(~walls).tolist()
    }
    for cells in cells_of(regions):
        balls = [{c for c, n in moves[a].items() if n <= radius} for a in moves]
        assert cells in balls
    # Each move lies in a region, so along any way one region shares a cell with the
    # next: every unseen pair can be stitched.
    for a, b in itertools.permutations(moves, 2):
        if moves[a][b] == 1:
            assert any({a, b} <= cells for cells in cells_of(regions))
    together = {
        pair for cells in cells_of(regions) for pair in itertools.permutations(cells, 2)
    }
    assert pairs_of(regions.seen) == together
    assert len(regions.seen) == len(together)
    apart = set(itertools.permutations(moves, 2)) - together
    assert pairs_of(regions.unseen) == apart


def test_unseen_pairs_can_be_asked_to_lie_far_apart():
    regions = make_regions(MEDIUM, 2, min_distance=6)
    far = {
        (a, b)
        for a, b in pairs_of(make_regions(MEDIUM, 2).unseen)
        if breadth_first(MEDIUM, a)[b] >= 6
    }
    assert 0 < len(far) < len(make_regions(MEDIUM, 2).unseen)
    assert pairs_of(regions.unseen) == far


def test_regions_are_drawn_by_their_seed():
    assert cells_of(make_regions(LARGE, 2, 5)) == cells_of(make_regions(LARGE, 2, 5))
    drawn = [str(cells_of(make_regions(LARGE, 2, seed))) for seed in range(5)]
    assert len(set(drawn)) > 1


def test_a_cell_alone_is_in_no_region():
    walls = np.array([[0, 0, 1], [1, 1, 0]], bool)
    regions = make_regions(walls, 1)
    assert cells_of(regions) == [{(0, 0), (0, 1)}]
    assert len(regions.unseen) == 0  # without a way there is nothing to stitch


# A region of the ring is all but one cell: the shortest way between its ends leads out.
LAYOUTS = (umaze_regions(), make_regions(RING, 3))


@functools.cache
def recorded(noise=0.5):
    return stitching.collect(PointMaze(3, 3), LAYOUTS, KEY, N_STEPS, noise)


def visited(episode, columns=slice(0, 2)):
    """Cells (row, column) of what stands in these columns, [T + 1]."""
    places = np.floor(episode.observations[:, columns]).astype(int)
    return [(y, x) for x, y in places.tolist()]


@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_no_episode_connects_an_unseen_pair(noise):
    for regions in LAYOUTS:
        assert len(regions.unseen) > 0
    for episode in recorded(noise):
        regions = LAYOUTS[episode.level_id]
        unseen = pairs_of(regions.unseen)
        cells = visited(episode)
        assert not {(cells[0], later) for later in cells} & unseen
        # More than that: it all happens in one region, the goal too.
        whole = {*cells, *visited(episode, slice(4, 6))}
        assert any(whole <= region for region in cells_of(regions))


def test_with_much_noise_episodes_that_leave_their_region_are_dropped():
    """Else the test above would prove little: here many do leave."""
    env = PointMaze(3, 3)
    slots = stitching._slots(LAYOUTS)
    lanes = np.arange(512) % len(slots.layout)
    level = stitching.PointMazeLevel(
        walls=slots.walls[slots.layout[lanes]],
        start=slots.pairs[slots.first_pair[lanes], 0],
        goal=slots.pairs[slots.first_pair[lanes], 1],
    )
    played = jax.device_get(
        stitching._play(
            env, 3.0, 60, jax.random.split(KEY, 512), level, slots.inside[lanes]
        )
    )
    _, steps, _, left = played
    success = steps.info["success"]
    before = np.arange(60) <= np.argmax(success, axis=1)[:, None]
    stays = success.any(axis=1) & ~(left & before).any(axis=1)
    assert 0.1 < stays.mean() < 0.95
    assert len(stitching._episodes(played, slots.layout[lanes])) == stays.sum()


def test_episodes_end_at_their_goal():
    episodes = recorded()
    n = sum(map(len, episodes))
    assert N_STEPS <= n < N_STEPS + len(episodes[-1])
    for episode in episodes:
        ends = np.zeros(len(episode), bool)
        ends[-1] = True
        np.testing.assert_array_equal(episode.terminations, ends)
        np.testing.assert_array_equal(episode.truncations, False)
        np.testing.assert_array_equal(episode.rewards, ends)
        place, goal = episode.observations[:, :2], episode.observations[:, 4:]
        assert (goal == goal[0]).all()
        away = np.linalg.norm(place - goal, axis=1)
        assert away[-1] < 0.5
        assert np.abs(episode.actions).max() <= 1
        np.testing.assert_array_equal(episode.observations[0, 2:4], 0)
    data = transitions.from_episodes(episodes)
    env = PointMaze(3, 3)
    transitions.check(data, env.observation_space, env.action_space, n_levels=2)


def test_actions_lead_from_one_observation_to_the_next():
    env = PointMaze(3, 3)
    for episode in recorded()[:200]:
        before, after = episode.observations[:-1], episode.observations[1:]
        velocity = np.clip(0.9 * before[:, 2:4] + 0.5 * episode.actions, -1.5, 1.5)
        free = after[:, 2:4] == pytest.approx(velocity, abs=1e-5)
        stopped = after[:, 2:4] == 0
        assert free or np.isclose(after[:, 2:4], velocity, atol=1e-5)[~stopped].all()
        moved = after[:, :2] - before[:, :2]
        np.testing.assert_allclose(
            moved[~stopped], 0.1 * after[:, 2:4][~stopped], atol=1e-5
        )
    assert env.max_episode_steps >= max(map(len, recorded()))


def test_layouts_regions_and_pairs_take_turns():
    counts = collections.Counter()
    for episode in recorded():
        goal = visited(episode, slice(4, 6))[0]
        counts[episode.level_id, visited(episode)[0], goal] += 1
    per_layout = [
        sum(n for (i, *_), n in counts.items() if i == layout) for layout in (0, 1)
    ]
    n_regions = [len(regions.cells) for regions in LAYOUTS]
    assert per_layout[0] / n_regions[0] == pytest.approx(
        per_layout[1] / n_regions[1], rel=0.1
    )
    for i, regions in enumerate(LAYOUTS):
        pairs = {(start, goal) for level, start, goal in counts if level == i}
        assert pairs == pairs_of(regions.seen)


def test_the_key_fixes_what_is_recorded():
    def actions(key, n=60):
        episodes = stitching.collect(PointMaze(3, 3), LAYOUTS, key, n)
        return np.concatenate([episode.actions for episode in episodes])

    np.testing.assert_array_equal(actions(KEY), actions(KEY))
    whole = np.concatenate([episode.actions for episode in recorded()])
    np.testing.assert_array_equal(actions(KEY), whole[: len(actions(KEY))])
    other = actions(jax.random.key(1))
    assert not np.array_equal(other[:20], whole[:20])


def test_with_dense_rewards_the_recording_ends_at_the_goal():
    env = PointMaze(3, 3, reward="dense")
    for episode in stitching.collect(env, LAYOUTS, KEY, 300):
        assert not episode.terminations.any()
        assert episode.truncations[-1] and not episode.truncations[:-1].any()
        away = np.linalg.norm(
            episode.observations[1:, :2] - episode.observations[1:, 4:], axis=1
        )
        np.testing.assert_allclose(episode.rewards, np.exp(-away), rtol=1e-5)
        assert (away[:-1] >= 0.5).all() and away[-1] < 0.5


def test_pairs_become_levels():
    regions = make_regions(MEDIUM, 2)
    level_set = stitching.pair_levels(regions, "unseen", 20, seed=3)
    assert (level_set.name, level_set.split, len(level_set)) == (
        "unseen pairs",
        "named",
        20,
    )
    levels = level_set.levels
    pairs = {
        (tuple(start), tuple(goal))
        for start, goal in zip(levels.start.tolist(), levels.goal.tolist(), strict=True)
    }
    assert len(pairs) == 20 and pairs <= pairs_of(regions.unseen)
    assert all((walls == MEDIUM).all() for walls in levels.walls)
    (row, column), goal = levels.start[0], levels.goal[0]
    assert level_set.labels[0] == f"0: ({row},{column}) to ({goal[0]},{goal[1]})"
    seen = stitching.pair_levels(list(LAYOUTS), "seen", 1000)
    assert len(seen) == sum(len(regions.seen) for regions in LAYOUTS)
    assert seen.labels[0].startswith("0: ") and seen.labels[-1].startswith("1: ")
    assert (seen.levels.walls[-1] == RING).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_regions(MEDIUM, 0), "radius of regions is 0"),
        (lambda: make_regions(np.eye(2, dtype=bool), 1), "no two free cells"),
        (lambda: stitching.collect(PointMaze(), LAYOUTS, KEY, 9), "A layout is 3x3"),
        (lambda: stitching.collect(PointMaze(3, 3), [], KEY, 9), "no layouts"),
        (
            lambda: stitching.collect(PointMaze(3, 3), LAYOUTS, KEY, 0),
            "n_transitions is 0",
        ),
        (
            lambda: stitching.collect(PointMaze(3, 3, max_steps=1), LAYOUTS, KEY, 9),
            "No episode reached its goal",
        ),
        (lambda: stitching.pair_levels(LAYOUTS, "new", 3), "choose seen or unseen"),
        (
            lambda: stitching.pair_levels(make_regions(RING, 4), "unseen", 3),
            "3 of 0 unseen pairs",
        ),
        (
            lambda: Regions(
                RING, (np.array([[1, 1], [0, 0]]),), *[np.zeros((0, 2, 2))] * 2
            ),
            "Region 0 has 2 cells: give at least 2, no walls",
        ),
    ],
)
def test_what_cannot_be_done_gets_one_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call()
