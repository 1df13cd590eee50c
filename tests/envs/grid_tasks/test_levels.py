"""Families of tasks: what they draw, edits, hashes, text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.envs.grid_tasks.env import GridTasks
from rlgen.envs.grid_tasks.levels import TASKS, Classic, Generated
from rlgen.errors import UserError
from rlgen.levels import LevelFileError, LevelSet

SPACES = [
    Generated(),
    Generated(6, 6, 3, max_size=6, n_walls=7, max_steps=100),
    Classic(),
]


def draw(space, n, seed=0):
    keys = jax.random.split(jax.random.key(seed), n)
    return jax.device_get(jax.jit(jax.vmap(space.sample))(keys))


def cells_of(levels):
    """Indices of start and objects [L, 1 + O] with -1 for what does not exist."""
    width = levels.blocked.shape[2]
    start = levels.start[:, 0] * width + levels.start[:, 1]
    places = levels.places[..., 0] * width + levels.places[..., 1]
    return np.concatenate([start[:, None], np.where(levels.exists, places, -1)], axis=1)


@pytest.mark.parametrize("space", SPACES)
def test_start_and_objects_are_apart_and_on_free_cells(space):
    levels = draw(space, 500)
    blocked = levels.blocked.reshape(500, -1)
    for row, walls in zip(cells_of(levels), blocked, strict=True):
        here = row[row >= 0]
        assert len(set(here)) == len(here)
        assert not walls[here].any()
    assert levels.exists.any(axis=1).all()
    for name in ("reward", "p_end", "p_return"):
        assert (getattr(levels, name)[~levels.exists] == 0).all()


def test_generated_tasks_have_the_stated_distributions():
    levels = draw(Generated(), 4000)
    assert levels.reward[:, 0].min() >= 0 and levels.reward[:, 1:].min() < -0.9
    counts = np.bincount(levels.exists.sum(axis=1), minlength=6)
    np.testing.assert_allclose(counts[1:] / 4000, 0.2, atol=0.03)
    # Sides are uniform in 4 to 10; beyond them everything is blocked.
    free_rows = (~levels.blocked).any(axis=2).cumsum(axis=1).argmax(axis=1) + 1
    assert free_rows.max() == 10 and free_rows.min() <= 4
    exists = levels.exists
    for values, low, high in (
        (levels.p_end[exists], 1e-2, 1.0),
        (levels.p_return[exists], 1e-3, 1e-1),
        (levels.max_steps, 20, 751),
    ):
        logs = np.log(values) - np.log(low)
        share = logs / (np.log(high) - np.log(low))
        assert share.min() > -0.01 and share.max() < 1.01
        np.testing.assert_allclose(
            np.quantile(share, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.04
        )
    assert levels.max_steps.min() == 20 and levels.max_steps.max() > 700


def test_walls_give_way_in_small_grids():
    tight = Generated(4, 4, 3, min_size=4, max_size=4, n_walls=16)
    levels = draw(tight, 50)
    np.testing.assert_array_equal(
        (~levels.blocked).sum(axis=(1, 2)), 1 + levels.exists.sum(axis=1)
    )


def test_classic_tasks_are_as_in_the_table():
    for name, (size, objects, max_steps, walls) in TASKS.items():
        levels = draw(Classic(kinds=(name,)), 20)
        assert (levels.max_steps == max_steps).all()
        free = (~levels.blocked).sum(axis=(1, 2))
        assert (free == size[0] * size[1] - len(walls)).all()
        assert levels.exists.sum(axis=1).tolist() == [sum(o[0] for o in objects)] * 20
        assert (levels.moves_objects == name.startswith("random")).all()
    drawn = draw(Classic(), 900).max_steps
    assert set(drawn) == {row[2] for row in TASKS.values()}


@pytest.mark.parametrize("space", SPACES)
def test_edits_differ_and_keep_the_rules(space):
    levels = draw(space, 300)
    keys = jax.random.split(jax.random.key(1), 300)
    edited = jax.device_get(jax.jit(jax.vmap(space.mutate))(keys, levels))
    before = np.asarray(jax.vmap(space.hash)(levels))
    after = np.asarray(jax.vmap(space.hash)(edited))
    assert (before != after).any(axis=1).all()
    blocked = edited.blocked.reshape(300, -1)
    for row, walls in zip(cells_of(edited), blocked, strict=True):
        here = row[row >= 0]
        assert len(set(here)) == len(here) and not walls[here].any()


def test_hashes_tell_every_leaf_apart():
    space = Generated()
    level = jax.tree.map(jnp.asarray, jax.tree.map(lambda x: x[0], draw(space, 1)))
    hashes = {tuple(np.asarray(space.hash(level)).tolist())}
    for name, leaf in vars(level).items():
        other = ~leaf if leaf.dtype == bool else leaf + 1
        changed = level.replace(**{name: other})
        hashes.add(tuple(np.asarray(space.hash(changed)).tolist()))
    assert len(hashes) == 1 + len(vars(level))
    many = np.asarray(jax.vmap(space.hash)(draw(space, 3000)))
    assert len({row.tobytes() for row in many}) == 3000


def test_text_round_trips():
    for space in SPACES:
        levels = draw(space, 20)
        for i in range(20):
            level = jax.tree.map(lambda x, i=i: x[i], levels)
            again = space.from_str(space.to_str(level))
            jax.tree.map(np.testing.assert_array_equal, level, again)
    with pytest.raises(LevelFileError, match="give a map with one S"):
        Generated().from_str("S.\n..\n{}")


def test_what_can_be_solved():
    space = Generated(2, 3, 1, min_size=2, max_size=2, n_walls=0)
    level = jax.tree.map(jnp.asarray, space.example())
    assert bool(space.valid(level))
    assert not bool(space.valid(level.replace(reward=-level.reward)))
    walls = jnp.array([[False, True, True], [True, True, True]])
    apart = level.replace(blocked=walls, places=jnp.array([[0, 2]]))
    assert not bool(space.valid(apart))
    assert float(space.features(level)["best_reward"]) == 1.0


def test_a_set_generates_and_comes_back_from_a_file(tmp_path):
    space = Generated(6, 6, 3, max_size=6, n_walls=7, max_steps=100)
    level_set = LevelSet.generate(space, 12, seed=0, split="test")
    again = LevelSet.load(level_set.save(tmp_path / "tasks"), space)
    np.testing.assert_array_equal(level_set.hashes, again.hashes)
    world = GridTasks(6, 6, 3, 100)
    best = jax.jit(jax.vmap(world.optimal_return))(again.levels)
    assert np.asarray(best).min() > 0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Generated(max_size=11), "do not fit 10x10 cells"),
        (lambda: Generated(min_size=2, n_objects=5), "choose fewer or a larger"),
        (lambda: Generated(min_steps=0), "1 <= min_steps"),
        (lambda: Generated(min_end=0.0), "0 < min_end"),
        (lambda: Classic(kinds=("densest",)), "Unknown task densest: choose dense,"),
        (lambda: Classic(height=9), "need height and width 13"),
    ],
)
def test_settings_that_make_no_family(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
