"""Tasks in the physics of a level: the contract, brax's own motion, honest ends."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.env import check_env, take
from rlgen.envs.physics import sketch
from rlgen.envs.physics.env import PhysicsEnv
from rlgen.envs.physics.levels import PhysicsLevels
from rlgen.envs.physics.physics import PARAMETERS, TASKS, acting, physics
from rlgen.errors import UserError

KEY = jax.random.key(3)
LIMIT = 60
BACKEND = {"inverted_pendulum": "spring", "reacher": "generalized"}
ENVS = {
    task: PhysicsEnv(task, backend, LIMIT, revealed=True)
    for task, backend in BACKEND.items()
}


@functools.cache
def compiled(task):
    env = ENVS[task]
    step = chex.assert_max_traces(env.step, 1)
    return jax.jit(env.reset), jax.jit(step)


def play(task, level, actions, time=0):
    """First observation and all steps of an episode whose clock starts at `time`."""
    reset, step = compiled(task)
    state, obs = reset(KEY, level)
    state = state.replace(time=jnp.int32(time))
    steps = []
    for action in actions:
        steps.append(step(KEY, level, state, jnp.asarray(action, jnp.float32)))
        state = steps[-1].state
    return obs, steps


def test_it_keeps_the_contract():
    env = PhysicsEnv("inverted_pendulum", "generalized", 15, revealed=True)
    check_env(env, physics(gravity=1.2, gear=0.8), KEY, 15)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_keeps_its_types(task):
    """What `check_env` asserts of types, without compiling a simulation for each."""
    env = PhysicsEnv(task, BACKEND.get(task, "spring"), revealed=True)
    action = jax.ShapeDtypeStruct(env.action_space.shape, jnp.float32)
    state, obs = jax.eval_shape(env.reset, KEY, physics())
    step = jax.eval_shape(env.step, KEY, physics(), state, action)
    for before, after in ((state, step.state), (obs, step.obs)):
        assert types_of(before) == types_of(after)
    assert obs.shape == env.observation_space.shape
    assert obs.shape == (env.n_features + len(env.varied),)
    assert (step.reward.shape, step.reward.dtype) == ((), jnp.float32)
    assert step.terminated.dtype == step.truncated.dtype == jnp.bool_


def types_of(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves]


def test_its_own_physics_are_those_of_brax():
    from brax import envs

    foreign = envs.get_environment("inverted_pendulum", backend="spring")
    obs, steps = play("inverted_pendulum", physics(), [[0.3]] * 15)
    shape = jax.eval_shape(foreign.reset, KEY)
    theirs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
    first = compiled("inverted_pendulum")[0](KEY, physics())[0]
    theirs = theirs.replace(pipeline_state=first.pipeline_state)
    foreign_step = jax.jit(foreign.step)
    for ours in steps:
        theirs = foreign_step(theirs, jnp.array([0.3]))
        np.testing.assert_allclose(ours.obs[:4], theirs.obs, rtol=1e-3, atol=1e-4)
        assert float(ours.reward) == float(theirs.reward)
        assert bool(ours.terminated) == bool(theirs.done)
    assert np.abs(np.asarray(steps[-1].obs - obs)).max() > 0.1


@pytest.mark.parametrize("task", ENVS)
def test_what_acts_changes_the_motion_and_nothing_else_does(task):
    n = ENVS[task].n_features
    actions = np.full((8, *ENVS[task].action_space.shape), 0.4)
    _, own = play(task, physics(), actions)
    for name in PARAMETERS:
        _, other = play(task, physics(**{name: 1.5}), actions)
        change = np.abs(np.asarray(own[-1].obs - other[-1].obs)[:n]).max()
        if name in acting(task, BACKEND[task]):
            # The pendulum has hardly begun to fall when gravity pulls at it.
            assert change > (1e-3 if name == "gravity" else 0.02), name
        else:
            # Not quite nothing: the reacher's links do weigh something.
            assert change < (5e-3 if name == "mass" else 1e-6), name


@pytest.mark.parametrize("task", ENVS)
def test_stronger_motors_are_larger_actions(task):
    """The reacher is charged for its actions, which the motion does not know."""
    n = ENVS[task].n_features
    shape = ENVS[task].action_space.shape
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (8, *shape))
    _, strong = play(task, physics(gear=2.0), actions)
    _, far = play(task, physics(), 2 * actions)
    for a, b in zip(strong, far, strict=True):
        np.testing.assert_allclose(a.obs[:n], b.obs[:n], rtol=1e-4, atol=1e-5)


def test_heavier_links_are_weaker_motors():
    """Where all that moves is twice as heavy, in the same gravity."""
    actions = np.full((10, 1), 0.5)
    _, heavy = play("inverted_pendulum", physics(mass=2.0), actions)
    _, weak = play("inverted_pendulum", physics(gear=0.5), actions)
    np.testing.assert_allclose(heavy[-1].obs[:4], weak[-1].obs[:4], rtol=1e-3)


def test_an_arm_in_thicker_oil_coasts_less_far():
    push = np.concatenate([np.full((3, 2), 0.2), np.zeros((10, 2))])
    turned = []
    for damping in (0.5, 1.0, 2.0):
        _, steps = play("reacher", physics(damping=damping), push)
        turned.append(float(jnp.arctan2(steps[-1].obs[2], steps[-1].obs[0])))
    assert turned[0] > turned[1] > turned[2] > 0


def test_levels_vmap_as_a_loop():
    env = ENVS["inverted_pendulum"]
    levels = jax.vmap(PhysicsLevels(env.varied).sample)(jax.random.split(KEY, 3))

    @jax.jit
    @jax.vmap
    def first_step(level):
        state, _ = env.reset(KEY, level)
        return env.step(KEY, level, state, jnp.array([0.5]))

    steps = first_step(levels)
    for i in range(3):
        _, (step,) = play("inverted_pendulum", take(levels, i), [[0.5]])
        np.testing.assert_allclose(steps.obs[i], step.obs, rtol=1e-4, atol=1e-6)
    assert len(np.unique(np.asarray(steps.obs[:, 2]))) == 3


def test_keys_draw_the_start_and_levels_do_not():
    reset, _ = compiled("inverted_pendulum")
    level = physics(gravity=1.3)
    first = reset(KEY, level)[1][:4]
    np.testing.assert_array_equal(first, reset(KEY, physics(gear=0.8))[1][:4])
    assert (first != reset(jax.random.key(4), level)[1][:4]).all()


def test_what_is_revealed_are_octaves():
    obs, (step,) = play(
        "inverted_pendulum", physics(gravity=0.5, mass=1.0, gear=2.0), [[0.0]]
    )
    np.testing.assert_allclose(obs[4:], [-1.0, 0.0, 1.0], atol=1e-6)
    np.testing.assert_array_equal(step.obs[4:], obs[4:])
    hidden = PhysicsEnv("inverted_pendulum")
    assert hidden.observation_space.shape == (4,)
    chosen = PhysicsEnv("inverted_pendulum", revealed=True, vary=("gear",))
    assert chosen.observation_space.shape == (5,)
    state, _ = jax.eval_shape(hidden.reset, KEY, physics())
    assert types_of(state) == types_of(jax.eval_shape(chosen.reset, KEY, physics())[0])


def test_ends_are_true_ones():
    """A pole that stands is cut off by the clock, one that falls ends."""
    _, steps = play("inverted_pendulum", physics(), [[0.0]] * 2, time=LIMIT - 2)
    assert [bool(s.truncated) for s in steps] == [False, True]
    assert [bool(s.info["success"]) for s in steps] == [False, True]
    _, steps = play("inverted_pendulum", physics(gear=2.0), [[1.0]] * 12)
    n = [bool(s.terminated) for s in steps].index(True)
    assert abs(float(steps[n].obs[1])) > 0.2 > abs(float(steps[n - 1].obs[1]))
    assert not bool(steps[n].info["success"])


@pytest.mark.parametrize(
    "task", ["inverted_pendulum", "inverted_double_pendulum", "hopper", "walker2d"]
)
def test_ends_can_be_told_from_observations(task):
    """As brax ends an episode, step by step, while motors push one way."""
    # By spring, joints give by millimetres, and the height of a tip is a sum of them.
    backend = "generalized" if task == "inverted_double_pendulum" else "spring"
    env = PhysicsEnv(task, backend, revealed=True)
    space = PhysicsLevels(env.varied)
    n_envs, n_steps = 16, 150
    levels = jax.vmap(space.sample)(jax.random.split(KEY, n_envs))

    @jax.jit
    def play(keys):
        state, _ = jax.vmap(env.reset)(keys, levels)

        shape = (n_envs, *env.action_space.shape)
        action = jax.random.uniform(KEY, shape, minval=-1)

        def step(state, _):
            out = jax.vmap(env.step)(keys, levels, state, action)
            return out.state, (out.obs, out.terminated)

        return jax.lax.scan(step, state, length=n_steps)[1]

    obs, terminated = play(jax.random.split(KEY, n_envs))
    assert 0 < np.mean(terminated) < 1
    np.testing.assert_array_equal(env.terminates(obs), terminated)


def test_ends_that_nobody_sees_or_that_never_come():
    ant = PhysicsEnv("ant")
    obs = jnp.zeros((3, ant.n_features)).at[:, 0].set(jnp.array([0.1, 0.5, 1.1]))
    assert ant.terminates(obs).tolist() == [True, False, True]
    reacher = PhysicsEnv("reacher")
    obs = jnp.zeros((2, reacher.n_features)).at[0, 3].set(jnp.nan)
    assert reacher.terminates(obs).tolist() == [True, False]


@pytest.mark.parametrize("factor", [jnp.nan, jnp.inf, 1e36])
@pytest.mark.parametrize("task", ENVS)
def test_a_simulation_that_blows_up_ends_and_lets_nothing_out(task, factor):
    level = physics(gear=1.5)
    reset, step_fn = compiled(task)
    state, _ = reset(KEY, level)
    broken = state.replace(
        time=jnp.int32(LIMIT - 1),
        pipeline_state=jax.tree.map(
            lambda x: x * jnp.asarray(factor, x.dtype), state.pipeline_state
        ),
    )
    env = ENVS[task]
    step = step_fn(KEY, level, broken, jnp.ones(env.action_space.shape))
    assert bool(step.info["non_finite"]) and bool(step.terminated)
    assert not bool(step.truncated) and not bool(step.info["success"])
    assert float(step.reward) == 0.0
    np.testing.assert_array_equal(step.obs[: env.n_features], 0.0)
    assert np.isfinite(step.obs).all()


def test_absurd_levels_end_too():
    """Motors of any strength; what leaves the environment is finite throughout."""
    level = physics(gear=1e30)
    _, steps = play("inverted_pendulum", level, [[1.0]] * 3)
    ended = [bool(s.terminated) for s in steps]
    assert ended[0] or ended[1]
    for step in steps:
        leaves = jax.tree.leaves((step.obs, step.reward, step.state))
        assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_the_picture_has_a_gauge_of_each_multiplier():
    env = ENVS["inverted_pendulum"]
    reset, _ = compiled("inverted_pendulum")
    level = physics(gravity=2.0, mass=0.5, gear=1.0)
    state, _ = reset(KEY, level)
    draw = jax.jit(env.render)
    picture, plain = np.asarray(draw(level, state)), draw(physics(), state)
    assert picture.shape == (sketch.HEIGHT, sketch.WIDTH, 3)
    green = (picture == [0, 158, 115]).all(axis=2)
    assert not (np.asarray(plain) == [0, 158, 115]).all(axis=2).any()
    rows, columns = np.nonzero(green)
    up, down = columns[rows < 10], columns[rows >= 10]
    # One octave up ends where one octave down began, at the mark.
    assert down.max() < up.min() and len(up) == len(down)
    ink = (picture[:30, :26] == [43, 48, 64]).all(axis=2)
    assert ink.any(axis=1).sum() > 15  # three words


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "humanoid"}, "no physics to vary in 'humanoid': choose .*hopper"),
        ({"task": "cartpole"}, "no physics to vary in 'cartpole'"),
        ({"backend": "bullet"}, "choose spring, positional, generalized, mjx"),
        ({"episode_length": 0}, "episode_length is 0"),
        ({"vary": ("friction",)}, "friction has no effect on inverted_pendulum with b"),
        ({"vary": ("damping",)}, "choose from gravity, mass, gear"),
        ({"vary": ("wind",)}, "wind has no effect"),
    ],
)
def test_bad_settings_get_one_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        PhysicsEnv(**settings)
    PhysicsEnv("inverted_pendulum", "generalized", vary=("damping",))
