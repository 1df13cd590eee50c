"""brax behind the lab's contracts: the same physics, honest ends, finite numbers."""

import functools

import brax.envs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen import training
from rlgen.env import check_env
from rlgen.envs.physics import simulator, sketch
from rlgen.envs.physics.simulator import TASKS
from rlgen.errors import UserError
from rlgen.interop.brax_env import BraxConfig, BraxEnv
from rlgen.interop.starts import Start, start

KEY = jax.random.key(0)


LIMIT = 100


@functools.cache
def compiled(task):
    env = BraxEnv(task, episode_length=LIMIT)
    return jax.jit(env.reset), jax.jit(env.step)


def play(task, actions, seed=3, time=0):
    """First observation and all steps of an episode whose clock starts at `time`."""
    reset, step = compiled(task)
    state, obs = reset(KEY, start(seed))
    state = state.replace(time=jnp.int32(time))
    steps = []
    for action in actions:
        steps.append(step(KEY, start(seed), state, jnp.asarray(action, jnp.float32)))
        state = steps[-1].state
    return obs, steps


def test_it_keeps_the_contract():
    check_env(BraxEnv(episode_length=15), start(5), KEY)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_keeps_its_types(task):
    """What `check_env` asserts of types, without compiling a simulation for each."""
    env = BraxEnv(task)
    action = jax.ShapeDtypeStruct(env.action_space.shape, jnp.float32)
    state, obs = jax.eval_shape(env.reset, KEY, start(0))
    step = jax.eval_shape(env.step, KEY, start(0), state, action)
    for before, after in ((state, step.state), (obs, step.obs)):
        assert types_of(before) == types_of(after)
    assert obs.shape == env.observation_space.shape
    assert (step.reward.shape, step.reward.dtype) == ((), jnp.float32)
    assert step.terminated.dtype == step.truncated.dtype == jnp.bool_


def types_of(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves]


@pytest.mark.parametrize("task", ["inverted_pendulum", "reacher"])
def test_it_steps_as_brax_does(task):
    """brax keeps the whole of its state, the adapter only what physics needs."""
    foreign = brax.envs.get_environment(task, backend="spring")
    theirs = jax.jit(foreign.reset)(jax.random.PRNGKey(3))
    actions = np.random.default_rng(0).uniform(-1, 1, (50, foreign.action_size))
    obs, steps = play(task, actions)
    np.testing.assert_allclose(obs, theirs.obs, rtol=1e-5)
    foreign_step = jax.jit(foreign.step)
    for action, ours in zip(actions, steps, strict=True):
        theirs = foreign_step(theirs, jnp.asarray(action, jnp.float32))
        np.testing.assert_allclose(ours.obs, theirs.obs, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(ours.reward, theirs.reward, rtol=1e-3, atol=1e-4)
        assert bool(ours.terminated) == bool(theirs.done)
    moved = np.abs(np.asarray(steps[-1].obs) - np.asarray(obs)).max()
    assert moved > 0.1  # or the agreement would mean little


def test_a_level_fixes_the_start_and_a_key_does_not():
    reset, _ = compiled("inverted_pendulum")
    _, obs = reset(KEY, start(3))
    _, again = reset(jax.random.key(1), start(3))
    _, other = reset(KEY, start(4))
    np.testing.assert_array_equal(obs, again)
    assert (np.asarray(obs) != np.asarray(other)).all()


def test_actions_are_clipped():
    """brax clips the forces, but would charge for the whole action."""
    _, (far,) = play("reacher", [[7.0, -3.0]])
    _, (edge,) = play("reacher", [[1.0, -1.0]])
    _, (half,) = play("reacher", [[0.5, -0.5]])
    np.testing.assert_array_equal(far.obs, edge.obs)
    assert float(far.reward) == float(edge.reward)
    assert (np.asarray(far.obs) != np.asarray(half.obs)).any()


def test_a_pendulum_that_stands_is_cut_off_and_one_that_falls_ends():
    _, steps = play("inverted_pendulum", [[0.0]] * 4, time=LIMIT - 4)
    assert [bool(s.truncated) for s in steps] == [False, False, False, True]
    assert not any(bool(s.terminated) for s in steps)
    assert [bool(s.info["success"]) for s in steps] == [False, False, False, True]
    assert [float(s.reward) for s in steps] == [1.0] * 4
    _, steps = play("inverted_pendulum", [[1.0]] * 40)
    fallen = [bool(s.terminated) for s in steps]
    n = fallen.index(True) + 1
    assert abs(float(steps[n - 1].obs[1])) > 0.2 > abs(float(steps[n - 2].obs[1]))
    # Falling with the last step that there is time for is falling.
    _, steps = play("inverted_pendulum", [[1.0]] * n, time=LIMIT - n)
    assert bool(steps[-1].terminated) and not bool(steps[-1].truncated)
    assert not bool(steps[-1].info["success"])


@pytest.mark.parametrize(
    ("factor", "starts_finite"), [(jnp.nan, False), (jnp.inf, False), (1e36, True)]
)
def test_a_simulation_that_blows_up_ends_and_lets_nothing_out(factor, starts_finite):
    reset, step_fn = compiled("inverted_pendulum")
    state, _ = reset(KEY, start(3))
    state = state.replace(
        time=jnp.int32(LIMIT - 1),
        pipeline_state=jax.tree.map(
            lambda x: x * jnp.asarray(factor, x.dtype), state.pipeline_state
        ),
    )
    step = step_fn(KEY, start(3), state, jnp.ones(1))
    assert bool(step.info["non_finite"]) and bool(step.terminated)
    assert not bool(step.truncated) and not bool(step.info["success"])
    assert float(step.reward) == 0.0
    np.testing.assert_array_equal(step.obs, np.zeros(4, np.float32))
    if starts_finite:
        leaves = jax.tree.leaves(step.state)
        assert all(np.isfinite(leaf).all() for leaf in leaves)
    _, (healthy,) = play("inverted_pendulum", [[0.0]])
    assert not bool(healthy.info["non_finite"])


def test_an_arm_succeeds_where_its_tip_ends_near_the_target():
    outcomes = set()
    for seed in range(200):
        _, (step,) = play("reacher", [[0.0, 0.0]], seed, time=LIMIT - 1)
        # The last three observations are the way from the target to the tip.
        near = np.linalg.norm(np.asarray(step.obs)[-3:]) < 0.05
        assert bool(step.info["success"]) == near
        outcomes.add(bool(near))
    assert outcomes == {True, False}
    _, (step,) = play("reacher", [[0.0, 0.0]])
    assert not bool(step.info["success"])  # not before the end


@pytest.mark.slow
def test_a_walker_succeeds_at_a_metre_a_second():
    env = BraxEnv("halfcheetah", episode_length=1)

    @jax.jit
    @jax.vmap
    def first_step(seed):
        level = Start(seed=seed)
        return env.step(KEY, level, env.reset(KEY, level)[0], jnp.zeros(6))

    steps = first_step(jnp.arange(50, dtype=jnp.uint32))
    # One step is 16 frames of 1/320 s.
    ahead = np.asarray(steps.state.pipeline_state.x.pos)[:, 0, 0] >= 0.05
    np.testing.assert_array_equal(steps.info["success"], ahead)
    assert 0 < ahead.sum() < len(ahead)


def test_the_first_use_may_be_inside_a_trace():
    simulator.make_simulator.cache_clear()
    jax.eval_shape(BraxEnv().reset, KEY, start(0))
    system = simulator.make_simulator("inverted_pendulum", "spring").sys
    assert not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(system))


def test_the_picture_shows_the_pole():
    env = BraxEnv()
    reset, _ = compiled("inverted_pendulum")
    state, _ = reset(KEY, start(0))
    _, steps = play("inverted_pendulum", [[1.0]] * 15)
    draw = jax.jit(env.render)
    upright, tilted = draw(start(0), state), draw(start(0), steps[-1].state)
    assert upright.shape == (sketch.HEIGHT, sketch.WIDTH, 3)
    assert upright.dtype == jnp.uint8

    def top_and_bottom(picture):
        rows, columns = np.nonzero(np.asarray(picture)[..., 2] == 178)
        return columns[rows == rows.min()].mean(), columns[rows == rows.max()].mean()

    top, bottom = top_and_bottom(upright)
    assert abs(top - bottom) < 2
    top, bottom = top_and_bottom(tilted)
    assert top < bottom - 5  # the cart was pushed to the right


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "cartpole"}, "choose inverted_pendulum, .*halfcheetah"),
        ({"backend": "bullet"}, "choose spring, positional, generalized, mjx"),
        ({"episode_length": 0}, "episode_length is 0"),
        ({"levels": "grids"}, "choose starts"),
    ],
)
def test_bad_settings_get_one_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        BraxConfig(**settings)


@pytest.mark.slow
def test_an_agent_trains_on_it(tmp_path):
    store = training.train(
        "agent",
        "brax",
        out=str(tmp_path),
        n_updates=2,
        n_envs=4,
        n_steps=4,
        episode_length=6,
        n_heldout=2,
        eval_episodes=1,
        channels=8,
        progress=False,
        pictures=False,
    )
    assert store.is_done
