"""The rules of grid-world tasks, and their oracle against brute force."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.env import check_env
from rlgen.envs.grid_tasks.env import MOVES, GridTask, GridTasks
from rlgen.errors import UserError

WORLD = GridTasks(height=2, width=3, n_objects=2, step_limit=6)


def task(**changes):
    """Two objects on a 2x3 grid: one that pays, one that costs and ends."""
    leaves = {
        "blocked": np.zeros((2, 3), bool),
        "start": np.array([0, 0], np.int32),
        "places": np.array([[0, 2], [1, 1]], np.int32),
        "exists": np.array([True, True]),
        "reward": np.array([1.0, -0.5], np.float32),
        "p_end": np.array([0.0, 1.0], np.float32),
        "p_return": np.array([0.0, 0.0], np.float32),
        "max_steps": np.int32(5),
        "moves_objects": np.bool_(False),
    }
    return GridTask(**leaves | changes)


def random_task(seed, deterministic=False):
    rng = np.random.default_rng(seed)
    cells = rng.permutation(6)
    blocked = np.zeros(6, bool)
    blocked[cells[3]] = rng.random() < 0.5
    chance = rng.integers(2, size=(2, 2)) if deterministic else rng.random((2, 2))
    places = np.stack(np.divmod(cells[:3], 3), axis=1).astype(np.int32)
    return task(
        blocked=blocked.reshape(2, 3),
        start=places[0],
        places=places[1:],
        exists=np.array([True, rng.random() < 0.8]),
        reward=rng.uniform(-1, 1, 2).astype(np.float32),
        p_end=chance[0].astype(np.float32),
        p_return=chance[1].astype(np.float32),
        max_steps=np.int32(rng.integers(1, 6)),
    )


def walk(level, actions, seed=0):
    state, obs = WORLD.reset(jax.random.key(seed), level)
    out = []
    for i, action in enumerate(actions):
        step = WORLD.step(jax.random.key(100 * seed + i), level, state, action)
        state = step.state
        out.append(step)
    return obs, out


UP, RIGHT, DOWN, LEFT, STAY = range(5)


def test_it_keeps_the_contract():
    check_env(WORLD, jax.tree.map(jnp.asarray, task()), jax.random.key(0))
    pictures = GridTasks(2, 3, 2, 6, observation="picture")
    check_env(pictures, jax.tree.map(jnp.asarray, task()), jax.random.key(0))


def test_objects_pay_once_and_end():
    _, steps = walk(task(), [RIGHT, RIGHT, STAY, LEFT, DOWN])
    assert [float(s.reward) for s in steps] == [0, 1, 0, 0, -0.5]
    assert [bool(s.terminated) for s in steps] == [False] * 4 + [True]
    assert not any(bool(s.truncated) for s in steps)
    assert [bool(s.info["success"]) for s in steps] == [False, True, True, True, True]


def test_walls_and_the_time_limit():
    blocked = np.array([[False, True, False], [False, False, False]])
    _, steps = walk(task(blocked=blocked), [RIGHT, UP, LEFT, STAY, STAY])
    assert all(s.state.position.tolist() == [0, 0] for s in steps)
    assert [bool(s.truncated) for s in steps] == [False] * 4 + [True]


def test_what_is_collected_comes_back_from_the_next_step_on():
    back = task(p_return=np.array([1.0, 0.0], np.float32))
    _, steps = walk(back, [RIGHT, RIGHT, STAY, STAY, STAY])
    # Collected, gone for a step, there again, collected.
    assert [float(s.reward) for s in steps] == [0, 1, 0, 1, 0]


def test_states_are_different_integers():
    seen = {}
    for row, col, bits in itertools.product(range(2), range(3), range(4)):
        present = np.array([bits & 1, bits >> 1], bool)
        start = np.array([row, col], np.int32)
        _, obs = WORLD.reset(jax.random.key(0), task(start=start, exists=present))
        seen[int(obs)] = (row, col, bits)
    assert sorted(seen) == list(range(WORLD.n_states))


def test_pictures_show_everything():
    world = GridTasks(2, 3, 2, 6, observation="picture")
    blocked = np.array([[False, True, False], [False, False, False]])
    level = task(blocked=blocked, exists=np.array([True, False]))
    _, obs = world.reset(jax.random.key(0), level)
    expected = np.zeros((2, 3, 4))
    expected[0, 0, 0] = expected[0, 1, 1] = expected[0, 2, 2] = 1
    np.testing.assert_array_equal(obs, expected)


def test_random_tasks_move_start_and_objects_to_distinct_free_cells():
    blocked = np.array([[False, True, False], [False, False, False]])
    level = task(blocked=blocked, moves_objects=np.bool_(True))
    pictured = dataclasses.replace(WORLD, observation="picture")
    states, _ = jax.vmap(pictured.reset, in_axes=(0, None))(
        jax.random.split(jax.random.key(0), 2000), level
    )
    at = np.concatenate([states.position[:, None], states.places], axis=1)
    cells = at[..., 0] * 3 + at[..., 1]
    assert all(len(set(row)) == 3 for row in cells.tolist())
    for column in cells.T:
        counts = np.bincount(column, minlength=6)
        assert counts[1] == 0
        np.testing.assert_allclose(counts[[0, 2, 3, 4, 5]] / 2000, 0.2, atol=0.04)


def model(level, cell, present, action):
    """What a step does, by the rules: (probability, reward, ends, cell, present)."""
    to = np.array(cell) + MOVES[action]
    inside = (to >= 0).all() and (to < (2, 3)).all()
    if inside and not level.blocked[tuple(to)]:
        cell = tuple(int(i) for i in to)
    left, reward, p_end = list(present), 0.0, 0.0
    for o, there in enumerate(present):
        if there and tuple(level.places[o]) == cell:
            left[o], reward, p_end = False, float(level.reward[o]), level.p_end[o]
    absent = [o for o, there in enumerate(present) if level.exists[o] and not there]
    outcomes = []
    for back in itertools.product([False, True], repeat=len(absent)):
        p, now = 1.0, list(left)
        for o, comes in zip(absent, back, strict=True):
            p *= level.p_return[o] if comes else 1 - level.p_return[o]
            now[o] = now[o] or comes
        for ends, q in ((True, p_end), (False, 1 - p_end)):
            if p * q > 0:
                outcomes.append((float(p * q), reward, ends, cell, tuple(now)))
    return outcomes


def best_by_enumeration(level):
    """Plain recursion over everything that can happen."""

    @functools.cache
    def best(cell, present, left):
        if left == 0:
            return 0.0
        return max(
            sum(
                p * (reward + (0.0 if ends else best(to, now, left - 1)))
                for p, reward, ends, to, now in model(level, cell, present, action)
            )
            for action in range(5)
        )

    start = tuple(int(i) for i in level.start)
    return best(start, tuple(bool(x) for x in level.exists), int(level.max_steps))


@pytest.mark.parametrize("seed", range(12))
def test_the_oracle_equals_enumeration(seed):
    level = random_task(seed)
    found = float(WORLD.optimal_return(level))
    assert found == pytest.approx(best_by_enumeration(level), abs=1e-5)


@pytest.mark.parametrize("seed", [0, 3, 5])
def test_the_oracle_equals_the_best_sequence_of_actions(seed):
    """Without chance, the best of all 5^4 ways to act in the environment itself."""
    level = random_task(seed, deterministic=True).replace(max_steps=np.int32(4))
    sequences = jnp.array(list(itertools.product(range(5), repeat=4)))

    def play(actions):
        state, _ = WORLD.reset(jax.random.key(0), level)
        total, going = 0.0, 1.0
        for i in range(4):
            step = WORLD.step(jax.random.key(i), level, state, actions[i])
            total += going * step.reward
            going *= 1.0 - step.terminated
            state = step.state
        return total

    returns = jax.jit(jax.vmap(play))(sequences)
    best = float(WORLD.optimal_return(level))
    assert float(jnp.max(returns)) == pytest.approx(best, abs=1e-6)


def test_steps_happen_as_often_as_the_rules_say():
    """The environment against the model that the enumeration believes in."""
    level = random_task(4).replace(exists=np.array([True, True]))
    level = level.replace(max_steps=np.int32(9))
    state, _ = WORLD.reset(jax.random.key(0), level)
    state = state.replace(present=jnp.array([True, False]))
    n = 4000
    keys = jax.random.split(jax.random.key(1), n)
    for action in range(5):
        steps = jax.vmap(WORLD.step, in_axes=(0, None, None, None))(
            keys, level, state, action
        )
        cell = tuple(int(i) for i in state.position)
        outcomes = model(level, cell, (True, False), action)
        for p, reward, ends, to, now in outcomes:
            same = np.all(np.asarray(steps.state.position) == to, axis=1)
            same &= np.all(np.asarray(steps.state.present) == now, axis=1)
            same &= np.asarray(steps.terminated) == ends
            same &= np.isclose(np.asarray(steps.reward), reward)
            assert same.mean() == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)


def test_the_oracle_of_moving_objects_is_a_mean():
    level = task(moves_objects=np.bool_(True), max_steps=np.int32(50))
    # With time enough, the object that pays is always reached.
    blind = level.replace(exists=np.array([True, False]))
    assert float(WORLD.optimal_return(blind)) == pytest.approx(1.0)
    assert float(WORLD.optimal_return(blind.replace(max_steps=np.int32(1)))) < 1.0


def test_settings_that_make_no_world():
    with pytest.raises(UserError, match="choose state or picture"):
        GridTasks(observation="pixels")
    with pytest.raises(UserError, match="do not fit 2x2 cells"):
        GridTasks(height=2, width=2, n_objects=3)
