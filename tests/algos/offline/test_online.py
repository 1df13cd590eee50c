"""Playing while learning: what is kept, what it is worth, and what goes on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algos_offline import build_on_push
from oracles import offline as oracle
from probes import Push, PushConfig

from rlgen.algos.offline import online
from rlgen.algos.offline.online import ONLINE, OnlineConfig, OnlineStage
from rlgen.algos.offline.stages import AGENT
from rlgen.errors import UserError

KEY = jax.random.key(0)


@functools.cache
def played(whole, fragile=False, steps=20):
    """What one update plays, as [T, B], and the stage."""
    name = "sac"
    settings = {"n_envs": 4, "n_steps": steps, "fragile": fragile, "random_updates": 1}
    if whole:
        settings |= {"cql_weight": 1.0, "calibrated": True}
    experiment = build_on_push(name, **settings)
    stage = experiment.stages[ONLINE]
    assert isinstance(stage, OnlineStage)
    state = jax.jit(experiment.init)(KEY)
    run = jax.jit(
        lambda s: stage.play(s.stages[ONLINE], s.stages[ONLINE].agent, None, KEY)
    )
    return stage, experiment, state, jax.device_get(run(state))


def test_steps_follow_one_another_and_ends_are_true():
    stage, _, _, (rows, keeps, _, _) = played(False)
    assert keeps.all() and rows["obs"].shape == (20, 4, 2)
    ended = rows["terminated"] | rows["truncated"]
    assert ended.any()
    same = (rows["next_obs"][:-1] == rows["obs"][1:]).all(axis=-1)
    np.testing.assert_array_equal(same, ~ended[:-1])
    # Reward is 1 less the distance that the true next observation shows.
    distance = np.abs(rows["next_obs"][..., 0] - rows["next_obs"][..., 1])
    np.testing.assert_allclose(rows["reward"], 1 - distance, rtol=1e-4, atol=1e-5)
    over = np.abs(rows["next_obs"][..., 0]) > 1.0
    np.testing.assert_array_equal(rows["terminated"], over)
    assert stage.env_steps_per_update == 80


def test_whole_episodes_are_one_each_with_their_returns():
    stage, _, _, (rows, keeps, _, _) = played(True)
    assert rows["obs"].shape == (12, 4, 2) and stage.env_steps_per_update == 48
    ended = rows["terminated"] | rows["truncated"]
    # On a level each: what is to be reached differs.
    assert len(np.unique(rows["obs"][0, :, 1])) == 4
    for b in range(4):
        n = int(np.argmax(ended[:, b])) + 1
        np.testing.assert_array_equal(keeps[:, b], np.arange(12) < n)
    cut = rows["truncated"]
    # As they were, and of sparse rewards: two succeed, two never do.
    sparse = np.where(np.arange(12)[:, None] == [[2, 99, 2, 99]], 0.0, -1.0)
    for reward, failing in ((rows["reward"], None), (sparse, -1.0)):
        to_go = np.asarray(online._to_go(reward, keeps, ended, cut, 0.9, failing))
        for b in range(4):
            n = int(keeps[:, b].sum())
            expected = oracle.returns_that_bound(
                reward[:n, b], cut[n - 1, b], 0.9, failing
            )
            np.testing.assert_allclose(to_go[:n, b], expected, rtol=1e-4)
            assert not to_go[n:, b].any()


def test_what_is_not_finite_is_not_kept():
    _, experiment, state, (rows, keeps, _, _) = played(False, fragile=True)
    broken = np.abs(rows["next_obs"][..., 0]) > 0.5
    assert broken.any()
    np.testing.assert_array_equal(keeps, ~broken)
    after, metrics = jax.jit(experiment.update)(state)
    buffer = after.stages[ONLINE].buffer
    assert int(buffer.n_written) == float(metrics["replay_steps"]) < 80
    stored = np.asarray(buffer.rows.next_obs)[: int(buffer.n_written), 0]
    assert (np.abs(stored) <= 0.5).all()


def test_returns_go_on_from_update_to_update():
    reward = np.arange(1.0, 9.0).reshape(4, 2)
    ended = np.array([[0, 0], [1, 0], [0, 0], [0, 1]], bool)
    keeps = np.ones((4, 2), bool)
    totals, returns = online._returns(jnp.array([10.0, 20.0]), reward, ended, keeps)
    np.testing.assert_allclose(returns[1, 0], 10 + 1 + 3)
    np.testing.assert_allclose(returns[3, 1], 20 + 2 + 4 + 6 + 8)
    np.testing.assert_allclose(totals, [5 + 7, 0])


def test_an_episode_that_broke_leaves_nothing_to_the_next():
    reward = np.array([[1.0], [np.nan], [5.0]])
    done, keeps = np.array([[0], [1], [1]], bool), np.array([[1], [0], [1]], bool)
    _, returns = online._returns(jnp.zeros(1), reward, done, keeps)
    np.testing.assert_allclose(returns[:, 0], [1, 1, 5])


def test_played_rewards_are_scaled_like_recorded_ones_and_actions_are_in_the_box(
    push_dataset,
):
    experiment = build_on_push(
        "iql",
        data=str(push_dataset),
        n_updates=2,
        steps_per_update=4,
        online_updates=1,
        n_envs=4,
        n_steps=16,
        reward_scaling="range",
        reward_shift=-5.0,
    )
    update = jax.jit(experiment.update)
    before, _ = update(experiment.init(KEY))
    after, metrics = update(before)
    rows = jax.device_get(after.stages[ONLINE].buffer.rows)
    n = int(after.stages[ONLINE].buffer.n_written)
    assert n == 64
    distance = np.abs(rows.next_obs[:n, 0] - rows.next_obs[:n, 1])
    stage = experiment.stages[ONLINE]
    assert isinstance(stage, OnlineStage) and stage.reward_scale > 2
    expected = stage.reward_scale * (1 - distance) - 5.0
    np.testing.assert_allclose(rows.reward[:n], expected, rtol=1e-3, atol=1e-3)
    assert np.abs(metrics["train_return"]) < 12  # as played
    # Of a Gaussian that is not squashed some samples lie outside.
    assert np.abs(rows.action[:n]).max() == 1.0
    # The schedule has not ended: the actor goes on learning.
    taught = before.stages[AGENT].params["actor"]
    learned = after.stages[ONLINE].agent.params["actor"]
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), taught, learned)
    assert max(jax.tree.leaves(moved)) > 1e-5


@pytest.mark.parametrize(
    "name", ["mopo", "rebrac", "rvs", "decision-transformer", "goal-cloning"]
)
def test_who_cannot_play_on_says_so(name, push_dataset):
    with pytest.raises(UserError, match=r"cannot play on|shows no goals"):
        build_on_push(name, data=str(push_dataset), n_updates=40, online_updates=1)


def test_soft_actor_critic_learns_to_push():
    experiment = build_on_push(
        "sac",
        n_updates=8,
        steps_per_update=200,
        n_envs=8,
        n_steps=32,
        actor_units=32,
        critic_units=32,
        batch_size=64,
        actor_lr=3e-3,
        critic_lr=3e-3,
        temperature_lr=3e-3,
        target_rate=0.05,
        discount=0.9,
    )
    update = jax.jit(experiment.update)
    state = jax.jit(experiment.init)(KEY)
    for _ in range(8):
        state, metrics = update(state)
    assert float(metrics["finite"]) == 1
    result = jax.jit(experiment.evaluate)(state, KEY)["heldout"]
    assert float(result.success.mean()) > 0.8


def test_an_agent_goes_on_from_what_the_dataset_taught(push_dataset):
    experiment = build_on_push(
        "cal-ql",
        data=str(push_dataset),
        n_updates=4,
        steps_per_update=2,
        online_updates=2,
        n_envs=2,
    )
    assert list(experiment.stages) == [AGENT, ONLINE]
    assert experiment.env_steps(2) == 0
    assert experiment.env_steps(3) == 2 * Push().max_episode_steps
    update = jax.jit(experiment.update)
    state = jax.jit(experiment.init)(KEY)
    taught = None
    for i in range(4):
        state, metrics = update(state)
        assert np.isfinite(metrics["online_q"]) == (i >= 2)
        assert np.isfinite(metrics["q"]) == (i < 2)
        params = experiment.policy_params(state)["actor"]
        own = state.stages[AGENT if i < 2 else ONLINE]
        own = own if i < 2 else own.agent
        for a, b in zip(
            jax.tree.leaves(params), jax.tree.leaves(own.params["actor"]), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        if i == 1:
            taught = state.stages[AGENT]
    assert int(taught.n_updates) == 4 and int(state.stages[ONLINE].agent.n_updates) == 8
    # The dataset's agent stays what it was.
    for a, b in zip(
        jax.tree.leaves(taught), jax.tree.leaves(state.stages[AGENT]), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: OnlineConfig(replay_size=10), "choose at least as many"),
        (lambda: build_on_push("sac", data="x"), "leave data, cocoa, "),
    ],
)
def test_settings_that_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
    # One update's steps are enough.
    assert OnlineConfig(n_envs=1, n_steps=1, n_levels=1, replay_size=1)


def test_only_levels_of_the_train_split_are_played():
    stage, _, state, _ = played(False)
    from rlgen.levels import split_of

    space = PushConfig().make_space()
    levels = jax.vmap(stage.sample_level)(jax.random.split(KEY, 200))
    assert (np.asarray(split_of(jax.vmap(space.hash)(levels))) == 0).all()
    assert (
        np.asarray(split_of(jax.vmap(space.hash)(state.stages[ONLINE].levels))) == 0
    ).all()
