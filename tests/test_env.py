"""The Env contract: auto-reset wrappers, and a check that catches what breaks it."""

import dataclasses
import itertools

import chex
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.env import Env, Replay, Resample, Step, check_env, sample_action, take
from rlgen.envs.maze import Maze, parse_maze
from rlgen.envs.maze.levels import UniformWalls
from rlgen.errors import UserError

KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class Clock(Env):
    """A level is {name, length}; the observation tells the level and the time.

    Even lengths end by termination, odd ones by truncation.
    """

    def reset(self, key, level):
        del key
        state = {"time": jnp.int32(0), "total": jnp.float32(0)}
        return state, self.observe(level, state)

    def observe(self, level, state):
        return jnp.stack([level["name"], state["time"]]).astype(jnp.float32)

    def step(self, key, level, state, action):
        del key
        time = state["time"] + 1
        state = {"time": time, "total": state["total"] + action}
        over = time >= level["length"]
        is_even = level["length"] % 2 == 0
        return Step(
            state=state,
            obs=self.observe(level, state),
            reward=time.astype(jnp.float32),
            terminated=over & is_even,
            truncated=over & ~is_even,
            info={"success": over & is_even},
        )

    @property
    def observation_space(self):
        return gymnasium.spaces.Box(0, 9, (2,), np.float32)

    @property
    def action_space(self):
        return gymnasium.spaces.Discrete(2)

    @property
    def max_episode_steps(self):
        return 9

    def render(self, level, state):
        return jnp.full((1, 1, 3), state["time"], jnp.uint8)


LEVEL = {"name": np.int32(3), "length": np.int32(4)}
POOL = {
    "name": np.arange(5, dtype=np.int32),
    "length": np.array([1, 2, 3, 4, 5], np.int32),
}


class TestCheckEnv:
    @pytest.mark.parametrize(
        "env",
        [
            Maze(5, 6, max_steps=7),
            Maze(5, 6, view_size=3, see_through_walls=False, max_steps=7),
            Maze(5, 6, view_size="full", actions="minigrid"),
            Replay(Maze(5, 6, max_steps=7), keep_final_obs=True),
            Clock(),
        ],
        ids=repr,
    )
    def test_accepts_what_keeps_the_contract(self, env):
        level = LEVEL if env == Clock() else UniformWalls(5, 6, max_walls=9).example()
        check_env(env, level, KEY)

    @pytest.mark.parametrize("keep_final_obs", [True, False])
    def test_accepts_resample(self, keep_final_obs):
        space = UniformWalls(5, 6, max_walls=9)
        pool = jax.vmap(space.sample)(jax.random.split(KEY, 4))
        check_env(Resample(Maze(5, 6, max_steps=7), keep_final_obs), pool, KEY)

    def test_accepts_keys_in_the_state(self):
        class Noisy(Clock):
            def reset(self, key, level):
                state, obs = super().reset(key, level)
                return state | {"key": key}, obs

            def step(self, key, level, state, action):
                step = super().step(key, level, state, action)
                return step.replace(state=step.state | {"key": key})

        check_env(Noisy(), LEVEL, KEY)
        check_env(Replay(Noisy()), LEVEL, KEY)

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            (
                lambda step: {"state": step.state | {"total": jnp.where(True, 1.0, 0)}},
                "weak type",
            ),
            (
                lambda step: {"state": step.state | {"total": step.reward[None]}},
                "state changes shape or dtype",
            ),
            (
                lambda step: {"state": step.state | {"extra": step.reward}},
                "state changes structure",
            ),
            (lambda step: {"obs": step.obs + 9}, "outside observation_space"),
            (
                lambda step: {"obs": step.obs.astype(jnp.int32)},
                "obs changes shape or dtype",
            ),
            (lambda step: {"info": {"won": step.terminated}}, "lacks `success`"),
            (lambda step: {"reward": step.reward * jnp.nan}, "reward is not finite"),
            (lambda step: {"reward": step.reward[None]}, "not a scalar of float32"),
            (
                lambda step: {"reward": step.reward.astype(int)},
                "not a scalar of float32",
            ),
            (lambda step: {"truncated": step.truncated.astype(int)}, "not both bool"),
            (
                lambda step: {"reward": changes_each_time(step.reward)},
                "not a function of its arguments",
            ),
            (
                lambda step: {"reward": differs_in_batches(step.reward)},
                "vmap of step differs",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_names_the_broken_promise(self, change, complaint):
        class Broken(Clock):
            def step(self, key, level, state, action):
                step = super().step(key, level, state, action)
                return step.replace(**change(step))

        with pytest.raises(AssertionError, match=complaint):
            check_env(Broken(), LEVEL, KEY)


def changes_each_time(reward):
    ticks = itertools.count()
    return jax.pure_callback(
        lambda: np.float32(next(ticks)), reward, vmap_method="sequential"
    )


@jax.custom_batching.custom_vmap
def differs_in_batches(reward):
    return reward


@differs_in_batches.def_vmap
def _(axis_size, in_batched, reward):
    return reward + 1, True


def roll(env, level, n_steps, n_envs=None, action=1):
    """Steps stacked along time, with the state and observation before each."""
    keys = jax.random.split(jax.random.key(1), n_steps + 1)
    step_fn, reset_fn = env.step, env.reset
    if n_envs is not None:
        keys = jax.vmap(lambda key: jax.random.split(key, n_envs))(keys)
        step_fn = jax.vmap(env.step, (0, None, 0, None))
        reset_fn = jax.vmap(env.reset, (0, None))

    @jax.jit
    def run(keys, level):
        def advance(carry, key):
            step = step_fn(key, level, carry[0], jnp.int32(action))
            return (step.state, step.obs), (carry, step)

        return jax.lax.scan(advance, reset_fn(keys[0], level), keys[1:])[1]

    return jax.tree.map(np.asarray, run(keys, level))


class TestReplay:
    def test_plays_the_same_level_again(self):
        # Three whole episodes on a level, and the state restarts with each of them.
        (states, obs), steps = roll(Replay(Clock(), True), LEVEL, 12)
        assert obs.tolist() == [[3, 0], [3, 1], [3, 2], [3, 3]] * 3
        assert steps.obs.tolist() == [[3, 1], [3, 2], [3, 3], [3, 0]] * 3
        final_obs = steps.info["final_obs"].tolist()
        assert final_obs == [[3, 1], [3, 2], [3, 3], [3, 4]] * 3
        assert states["total"].tolist() == [0, 1, 2, 3] * 3
        assert steps.reward.tolist() == [1, 2, 3, 4] * 3
        assert steps.terminated.tolist() == [False, False, False, True] * 3
        assert not steps.truncated.any()

    def test_each_of_a_batch_keeps_its_own_level(self):
        env = Replay(Clock())
        state, _ = jax.vmap(env.reset, (None, 0))(KEY, POOL)
        step_fn = jax.jit(jax.vmap(env.step, (None, 0, 0, None)))
        for t in range(1, 16):
            step = step_fn(KEY, POOL, state, jnp.int32(0))
            assert step.obs[:, 0].tolist() == POOL["name"].tolist()
            assert step.obs[:, 1].tolist() == (t % POOL["length"]).tolist()
            is_last = t % POOL["length"] == 0
            is_even = POOL["length"] % 2 == 0
            assert step.terminated.tolist() == (is_last & is_even).tolist()
            assert step.truncated.tolist() == (is_last & ~is_even).tolist()
            state = step.state

    def test_a_maze_starts_again_where_it_started(self):
        env = Replay(Maze(2, 4, view_size=3, max_steps=9), keep_final_obs=True)
        level = parse_maze(">..G\n#.#.\n")
        (states, obs), steps = roll(env, level, 9, action=2)
        first = take(obs, 0)
        assert steps.terminated.tolist() == [False, False, True] * 3
        for t in (2, 5, 8):
            chex.assert_trees_all_equal(take(steps.obs, t), first)
            # The agent stands on the goal: not what the next episode shows first.
            final_obs = take(steps.info["final_obs"], t)
            assert not np.array_equal(final_obs["view"], first["view"])
            wanted = env.env.observe(
                level, take(states, 2).replace(position=level.goal)
            )
            chex.assert_trees_all_equal(final_obs, jax.tree.map(np.asarray, wanted))
        assert states.position[::3].tolist() == [[0, 0]] * 3


class TestResample:
    n_envs, n_steps = 64, 60

    @pytest.fixture(scope="class")
    def played(self):
        env = Resample(Clock(), keep_final_obs=True)
        return roll(env, POOL, self.n_steps, self.n_envs)

    def test_reports_the_level_that_was_played(self, played):
        (states, obs), steps = played
        index = steps.info["level_index"]
        np.testing.assert_array_equal(index, states.level_index)
        # Names are indices here, so observations tell the truth about the level.
        np.testing.assert_array_equal(index, obs[..., 0])
        np.testing.assert_array_equal(index, steps.info["final_obs"][..., 0])
        assert set(index.reshape(-1).tolist()) == set(range(5))

    def test_an_episode_stays_on_its_level(self, played):
        (_, obs), steps = played
        done = steps.done
        assert done.any() and not done.all()
        np.testing.assert_array_equal(steps.obs[~done], steps.info["final_obs"][~done])
        assert (steps.obs[done][:, 1] == 0).all()
        final_obs = steps.info["final_obs"][done]
        np.testing.assert_array_equal(
            final_obs[:, 1], POOL["length"][final_obs[:, 0].astype(int)]
        )
        np.testing.assert_array_equal(obs[1:], steps.obs[:-1])

    def test_levels_are_drawn_alike_and_apart(self, played):
        _, steps = played
        drawn = steps.obs[..., 0][steps.done]
        counts = np.bincount(drawn.astype(int), minlength=5)
        expected = counts.sum() / 5
        # The 99.99 % quantile of chi-square with 4 degrees of freedom.
        assert ((counts - expected) ** 2 / expected).sum() < 23.5
        # What was played last says nothing about what comes next.
        before = steps.info["level_index"][steps.done]
        repeats = (drawn == before).mean()
        assert abs(repeats - 0.2) < 5 * np.sqrt(0.2 * 0.8 / len(drawn))

    def test_first_levels_are_drawn_alike(self):
        env = Resample(Clock())
        keys = jax.random.split(KEY, 2000)
        state, obs = jax.jit(jax.vmap(env.reset, (0, None)))(keys, POOL)
        assert state.level_index.dtype == jnp.int32
        np.testing.assert_array_equal(state.level_index, obs[:, 0])
        counts = np.bincount(state.level_index, minlength=5)
        assert ((counts - 400) ** 2 / 400).sum() < 23.5

    @pytest.mark.parametrize("index", [0, 4])
    def test_reset_to_starts_on_the_level_asked_for(self, index):
        state, obs = Resample(Clock()).reset_to(KEY, POOL, jnp.int32(index))
        assert (int(state.level_index), obs.tolist()) == (index, [index, 0])


@pytest.mark.parametrize("wrapper", [Replay, Resample])
class TestWrappers:
    def test_keep_final_obs_only_when_asked(self, wrapper):
        for keep in (False, True):
            env = wrapper(Clock(), keep)
            state, _ = env.reset(KEY, POOL if wrapper is Resample else LEVEL)
            level = POOL if wrapper is Resample else LEVEL
            step = env.step(KEY, level, state, jnp.int32(0))
            assert ("final_obs" in step.info) == keep
            assert "success" in step.info

    def test_the_rest_is_that_of_the_environment(self, wrapper):
        inner, env = Clock(), wrapper(Clock())
        assert env.observation_space == inner.observation_space
        assert env.action_space == inner.action_space
        assert env.max_episode_steps == 9
        level = POOL if wrapper is Resample else LEVEL
        state, _ = env.reset(KEY, level)
        assert env.render(level, state).tolist() == [[[0, 0, 0]]]

    def test_nothing_retraces(self, wrapper):
        chex.clear_trace_counter()
        env = wrapper(Maze(3, 4, view_size=3, max_steps=3), keep_final_obs=True)
        space = UniformWalls(3, 4, max_walls=4)
        level = jax.jit(jax.vmap(space.sample))(jax.random.split(KEY, 4))
        if wrapper is Replay:
            level = take(level, 0)
        step_fn = jax.jit(chex.assert_max_traces(env.step, n=1))
        state, _ = env.reset(KEY, level)
        for i in range(7):
            step = step_fn(jax.random.fold_in(KEY, i), level, state, jnp.int32(i % 3))
            state = step.state


class TestSampleAction:
    def test_discrete_actions_are_uniform_from_their_start(self):
        space = gymnasium.spaces.Discrete(3, start=2)
        keys = jax.random.split(KEY, 3000)
        actions = jax.jit(jax.vmap(lambda key: sample_action(key, space)))(keys)
        assert actions.dtype == jnp.int32
        counts = np.bincount(actions)
        assert counts[:2].sum() == 0 and len(counts) == 5
        assert abs(counts[2:] - 1000).max() < 130

    def test_boxes_are_filled_between_their_bounds(self):
        space = gymnasium.spaces.Box(
            np.array([-1, 4], np.float32), np.array([1, 5], np.float32)
        )
        keys = jax.random.split(KEY, 1000)
        actions = np.asarray(jax.vmap(lambda key: sample_action(key, space))(keys))
        np.testing.assert_allclose(actions.min(axis=0), [-1, 4], atol=0.05)
        np.testing.assert_allclose(actions.max(axis=0), [1, 5], atol=0.05)

    def test_other_spaces_are_refused(self):
        with pytest.raises(TypeError, match="MultiBinary cannot be sampled"):
            sample_action(KEY, gymnasium.spaces.MultiBinary(2))


def test_the_best_return_needs_an_oracle():
    with pytest.raises(NotImplementedError, match="Clock has no oracle"):
        Clock().optimal_return(LEVEL)


@pytest.mark.parametrize(
    "settings",
    [
        {"height": 1},
        {"width": 1},
        {"view_size": 4},
        {"view_size": 1},
        {"view_size": 33},
        {"view_size": "whole"},
        {"view_size": 5.0},
        {"max_steps": 0},
        {"actions": "all"},
    ],
    ids=str,
)
def test_impossible_mazes_are_told_in_one_sentence(settings):
    with pytest.raises(UserError) as error:
        Maze(**settings)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
