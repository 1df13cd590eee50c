"""What published configurations ask for: NumPy, closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algos_offline import build_on_push
from offline_data import episodes_of
from oracles import offline as oracle

from rlgen.algos.offline.agent import descend, numbers
from rlgen.algos.offline.assembly import with_rewards
from rlgen.algos.offline.bc import BC, BCConfig
from rlgen.algos.offline.decision_transformer import (
    DecisionTransformer,
    TransformerConfig,
    dropout,
)
from rlgen.algos.offline.functions import Factory, NetsConfig
from rlgen.algos.offline.iql import IQL, IQLConfig
from rlgen.algos.offline.outcomes import with_outcomes
from rlgen.algos.offline.sac import SAC, SACConfig
from rlgen.algos.offline.sampling import Windows
from rlgen.algos.offline.td3_bc import TD3BC, TD3BCConfig
from rlgen.errors import UserError
from rlgen.transitions import from_episodes, with_endless_returns

KEY = jax.random.key(0)
SMALL = Factory(NetsConfig(actor_units=16, critic_units=16), 3, 2)
WIDE_OBS = 3 + 1 + 2  # with the return to go and the last action
WINDOWED = dataclasses.replace(SMALL, obs_size=WIDE_OBS)
TINY = {"context": 4, "n_blocks": 1, "token_size": 8, "warmup": 1}


def batch_of(**kwargs):
    rows = from_episodes(episodes_of(2, 4, **kwargs)).rows
    return jax.tree.map(jnp.asarray, rows)


@pytest.mark.parametrize("entropy_backup", [False, True])
def test_targets_take_the_best_of_the_actions_that_are_tried(entropy_backup):
    """Max-target backup (Nakamoto et al. 2023): of the least critic, the best."""
    config = SACConfig(backup_actions=5, entropy_backup=entropy_backup, temperature=0.3)
    agent = SAC(SMALL, config)
    state, batch = jax.jit(agent.init)(KEY), batch_of(ends="terminated")
    policy = agent.policy(agent.act(state.params["actor"], batch.next_obs))
    action, log_prob = policy.sample_and_log_prob(seed=KEY, sample_shape=(5,))
    target = agent.target(state, batch, KEY)
    best_at = []
    for b in range(len(batch)):
        values = []
        for m in range(5):
            x = np.concatenate([batch.next_obs[b], action[m, b]])
            critics = state.targets["critic"]
            q = [oracle.mlp(oracle.member(critics, i), x, 2)[0] for i in range(2)]
            values.append(min(q))
        best = int(np.argmax(values))
        best_at.append(best)
        value = values[best] - entropy_backup * 0.3 * float(log_prob[best, b])
        expected = float(batch.reward[b]) + 0.99 * value * (b % 4 != 3)
        assert float(target[b]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert len(set(best_at)) > 1


def test_the_multiplier_begins_where_it_is_told():
    config = SACConfig(cql_weight=1.0, cql_actions=2, cql_gap=0.8, multiplier=np.e)
    agent = SAC(SMALL, config)
    state = jax.jit(agent.init)(KEY)
    assert float(state.params["log_multiplier"]) == pytest.approx(1.0, rel=1e-6)
    batches = jax.tree.map(lambda x: x[None], batch_of())
    _, metrics = jax.jit(agent.update)(state, batches, KEY)
    assert float(metrics["cql_multiplier"]) == pytest.approx(np.e, rel=1e-6)


@pytest.mark.parametrize("discount", [0.0, 0.9])
def test_rewards_are_shifted_and_returns_with_them(discount):
    data = from_episodes(episodes_of(3, 5), discount=discount)
    shifted = with_rewards(data, np.float32(10.0), -5.0, discount)
    expected = 10.0 * np.asarray(data.rows.reward, np.float64) - 5.0
    np.testing.assert_allclose(shifted.rows.reward, expected, rtol=1e-5, atol=1e-5)
    for episode in range(3):
        rewards = expected[5 * episode : 5 * episode + 5]
        returns = oracle.returns_that_bound(rewards, False, discount)
        ours = shifted.rows.return_to_go[5 * episode : 5 * episode + 5]
        np.testing.assert_allclose(ours, returns, rtol=1e-4, atol=1e-4)


def test_antmaze_as_cal_ql_reads_it():
    """1 at the goal and else 0 become 5 and -5; who never arrives is worth -500."""
    episodes = episodes_of(2, 4)
    for episode, rewards in zip(episodes, ([0, 0, 0, 1], [0, 0, 0, 0]), strict=True):
        episode.rewards[:] = rewards
    data = from_episodes(episodes, discount=0.99)
    data = with_rewards(data, np.float32(10.0), -5.0, 0.99)
    returns = with_endless_returns(data, 0.99).rows.return_to_go
    arrives = oracle.returns_that_bound([-5, -5, -5, 5], True, 0.99, failing=-5.0)
    np.testing.assert_allclose(returns[:4], arrives, rtol=1e-5)
    np.testing.assert_allclose(returns[4:], -500.0, rtol=1e-5)


AGENTS = {
    "bc": lambda n, **s: BC(SMALL, BCConfig(**s), n),
    "td3-bc": lambda n, **s: TD3BC(SMALL, TD3BCConfig(policy_delay=1, **s), n),
    "iql": lambda n, **s: IQL(SMALL, IQLConfig(**s), n),
    "sac": lambda n, **s: SAC(SMALL, SACConfig(**s), n),
    "decision-transformer": lambda n, **s: DecisionTransformer(
        WINDOWED, TransformerConfig(**TINY, **s), n
    ),
}


def windows(n_windows=3):
    """Windows of four steps that end at times 0, 2 and 5. [3, 4, ...]."""
    data = with_outcomes(
        from_episodes(episodes_of(1, 6)), 6, rate=False, tells_action=True
    )
    first = jax.tree.map(jnp.asarray, data)
    drawn = Windows(4)(first, KEY, (64,))
    ends = np.asarray(drawn.time[:, -1])
    at = [int(np.flatnonzero(ends == t)[0]) for t in (0, 2, 5)][:n_windows]
    return jax.tree.map(lambda x: x[np.array(at)], drawn)


@pytest.mark.parametrize("name", AGENTS)
def test_the_actors_rate_falls_to_nothing_over_the_run(name):
    agent = AGENTS[name](100, anneal_actor=True, actor_lr=1e-2)
    state = jax.jit(agent.init)(KEY)
    batch = windows() if name == "decision-transformer" else batch_of()
    update = jax.jit(agent.update)

    def moved(n_updates):
        before = state.replace(n_updates=jnp.int32(n_updates))
        after, _ = update(before, jax.tree.map(lambda x: x[None], batch), KEY)
        return jax.tree.map(
            lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(),
            after.params["actor"],
            before.params["actor"],
        )

    # Adam's first step is the rate itself, wherever there is a slope.
    for done, rate in ((0, 1e-2), (50, 5e-3), (100, 0.0)):
        largest = max(jax.tree.leaves(moved(done)))
        assert largest == pytest.approx(rate, rel=2e-2, abs=1e-7)
    with pytest.raises(UserError, match="leave anneal_actor out"):
        AGENTS[name](0, anneal_actor=True)


def test_weight_decay_takes_its_share_beside_adam():
    agent = BC(SMALL, BCConfig())
    state = jax.jit(agent.init)(KEY)

    def no_slope(params):
        return jnp.float32(0.0) * sum(map(jnp.sum, jax.tree.leaves(params))), None

    decayed, _ = descend(state, "actor", no_slope, 0.1, weight_decay=0.5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 0.95 * b, rtol=1e-6),
        decayed.params["actor"],
        state.params["actor"],
    )


def test_a_transformer_decays_and_leaves_out_only_in_learning():
    batches = jax.tree.map(lambda x: x[None], windows())
    plain = DecisionTransformer(WINDOWED, TransformerConfig(**TINY))
    state = jax.jit(plain.init)(KEY)

    def learner(**settings):
        config = TransformerConfig(**TINY, **settings)
        agent = DecisionTransformer(WINDOWED, config)
        own, update = state.replace(numbers=numbers(config)), jax.jit(agent.update)
        return lambda seed: update(own, batches, jax.random.key(seed))

    learned, decayed = learner(), learner(weight_decay=0.5)
    jax.tree.map(
        lambda a, b, start: np.testing.assert_allclose(
            a, b - 1e-4 * 0.5 * start, rtol=1e-4, atol=1e-8
        ),
        decayed(0)[0].params["actor"],
        learned(0)[0].params["actor"],
        state.params["actor"],
    )
    forgetful = learner(dropout=0.5)
    assert forgetful(0)[1] != forgetful(1)[1]
    assert learned(0)[1] == learned(1)[1]
    agent = DecisionTransformer(WINDOWED, TransformerConfig(**TINY, dropout=0.5))
    acts = [
        jax.jit(a.act)(state.params["actor"], batches.obs[0, :, -1])
        for a in (agent, plain)
    ]
    np.testing.assert_array_equal(*acts)


def test_what_stays_is_scaled_to_the_same_mean():
    kept = np.asarray(dropout(jnp.ones((200, 200)), 0.2, KEY))
    np.testing.assert_allclose(np.unique(kept), [0.0, 1.25])
    assert kept.mean() == pytest.approx(1.0, abs=0.01)
    assert dropout(kept, 0.2, None) is kept


def test_times_have_embeddings_of_their_own():
    """A window that ends at time t reads rows t - 3 to t, and the last beyond them."""
    times = DecisionTransformer(WINDOWED, TransformerConfig(**TINY, max_time=6))
    places = DecisionTransformer(WINDOWED, TransformerConfig(**TINY))
    params = jax.jit(times.init)(KEY).params["actor"]
    assert params["place"].shape == (6, 8)
    obs = windows().obs[jnp.array([0, 1, 2, 2])]
    n_real = jnp.array([1, 3, 6, 9])
    said = jax.jit(times.actions)(params, obs, n_real)
    expect = jax.jit(places.actions)
    for i in range(4):
        end = int(n_real[i]) - 1
        rows = np.clip(np.arange(end - 3, end + 1), 0, 5)
        own = params | {"place": params["place"][rows]}
        np.testing.assert_allclose(
            said[i], expect(own, obs, n_real)[i], rtol=1e-5, atol=1e-6
        )
    # Played step by step, it counts the same times.
    carry, step = times.initial_carry(1), jax.jit(times.step)
    for t in range(9):
        now = obs[2:3, min(t, 3)]
        carry, last = step(params, carry, now, jnp.array([t == 0]))
    window = jnp.broadcast_to(obs[2:3, 3:4], (4, 4, WIDE_OBS))
    late = jax.jit(times.actions)(params, window, n_real)
    np.testing.assert_allclose(last[0], late[3, -1], rtol=1e-5, atol=1e-6)


def test_tokens_are_normalised_and_blocks_activated_as_told():
    settings = {**TINY, "block_activation": "relu", "token_norm": True}
    agent = DecisionTransformer(WINDOWED, TransformerConfig(**settings))
    params = jax.jit(agent.init)(KEY).params["actor"]
    batch = windows()
    n_real = batch.time[:, -1] + 1
    actions = jax.jit(agent.actions)
    said = actions(params, batch.obs, n_real)
    blind = {"scale": jnp.zeros(8), "offset": jnp.zeros(8)}
    nothing = actions(params | {"token_norm": blind}, batch.obs, n_real)
    np.testing.assert_allclose(nothing, nothing[:1, :1] + 0 * nothing, atol=1e-7)
    assert np.abs(np.asarray(said) - np.asarray(nothing)).max() > 1e-4
    # Of hidden numbers below 0 a rectifier leaves nothing.
    block = params["blocks"][0]
    up = {"kernel": 0.0 * block["up"]["kernel"], "bias": block["up"]["bias"] - 1.0}
    down = {"kernel": jnp.ones((32, 8)), "bias": block["down"]["bias"]}
    off = {**params, "blocks": [{**block, "up": up, "down": down}]}
    without = {**block["down"], "kernel": 0.0 * block["down"]["kernel"]}
    bare = {**params, "blocks": [{**block, "down": without}]}
    np.testing.assert_array_equal(
        actions(off, batch.obs, n_real), actions(bare, batch.obs, n_real)
    )


def test_an_activation_that_nobody_knows_is_refused():
    with pytest.raises(UserError, match="choose relu"):
        TransformerConfig(block_activation="sin")


@pytest.mark.parametrize("setting", [{"reward_factor": 2.0}, {"reward_shift": 1.0}])
def test_who_is_told_a_return_counts_rewards_as_they_are(setting, push_dataset):
    with pytest.raises(UserError, match="reward_factor 1 and reward_shift 0"):
        build_on_push("rvs", data=str(push_dataset), **setting)


def test_who_plays_from_the_start_has_no_range_of_returns():
    with pytest.raises(UserError, match="reward_scaling out"):
        build_on_push("sac", reward_scaling="range")
