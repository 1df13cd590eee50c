"""Environment design as an experiment: what trains, what only scores, what goes on."""

from __future__ import annotations

import types
import warnings

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen import training
from rlgen.algos.ued import level_replay
from rlgen.algos.ued.curriculum import NEW_LEVELS, REPLAYED
from rlgen.errors import UserError
from rlgen.levels import split_of
from rlgen.networks import zero_obs

TINY = {
    "n_envs": 4,
    "n_steps": 10,
    "n_minibatches": 1,
    "n_epochs": 1,
    "core_size": 8,
    "head_size": 8,
    "channels": 8,
    "buffer_size": 16,
    "min_fill": 0.25,
    "height": 5,
    "width": 5,
    "max_walls": 3,
    "max_steps": 10,
    "n_heldout": 4,
}


def build(algorithm, **settings):
    heldout = {"heldout": "uniform"} if algorithm == "accel" else {}
    return training.make_config(
        algorithm, "maze", "quick", TINY | heldout | settings
    ).build()


def steps(experiment, n, seed=0):
    """States before and after each update, with its metrics."""
    update = jax.jit(experiment.update)
    state = jax.jit(experiment.init)(jax.random.key(seed))
    for _ in range(n):
        new, metrics = update(state)
        yield state, new, {k: float(v) for k, v in metrics.items()}
        state = new


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def test_robust_plr_learns_from_replayed_batches_alone():
    roles = set()
    updates = 0
    for old, new, metrics in steps(build("robust-plr"), 30):
        roles.add(metrics["role"])
        trained = metrics["role"] == REPLAYED
        updates += trained
        assert same(old.learner, new.learner) == (not trained)
        assert np.isnan(metrics["loss"]) == (not trained)
        assert metrics["student_updates"] == updates
    assert roles == {NEW_LEVELS, REPLAYED}


def test_plr_learns_from_every_batch():
    for old, new, _ in steps(build("plr"), 6):
        assert not same(old.learner.params, new.learner.params)


def products(jaxpr):
    """Matrix products in a jaxpr, and the learning step's two branches."""
    count, branches = 0, []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            count += 1
        inner = eqn.params.get("branches")
        if inner is not None:
            counts = sorted(products(branch.jaxpr)[0] for branch in inner)
            branches.append(counts)
            continue
        for value in eqn.params.values():
            if isinstance(value, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr):
                sub = getattr(value, "jaxpr", value)
                found, more = products(sub)
                count += found
                branches += more
    return count, branches


def test_a_batch_that_only_scores_runs_the_policy_once_and_no_gradient():
    """Published code runs five forward passes to log losses of dropped gradients."""
    experiment = build("robust-plr")
    state = jax.eval_shape(experiment.init, jax.random.key(0))
    count, branches = products(jax.make_jaxpr(experiment.update)(state).jaxpr)
    learning = [counts for counts in branches if counts[-1] > 0]
    assert len(learning) == 1 and learning[0][0] == 0 and learning[0][1] > 0

    def act(params, carry, obs, reset):
        return experiment.network.step(params, carry, obs, reset)

    obs = jax.tree.map(lambda x: x[None], zero_obs(experiment.env.observation_space))
    carry = experiment.network.initial_carry(1)
    once, _ = products(
        jax.make_jaxpr(act)(state.learner.params, carry, obs, np.ones(1, bool)).jaxpr
    )
    # In the rollout's loop, and once for the observation after its last step.
    assert count == 2 * once


def test_only_train_split_levels_enter_the_buffer():
    *_, (_, last, _) = steps(build("accel"), 40)
    buffer = last.curriculum.buffer
    hashes = buffer.batch.hash[: int(buffer.size)]
    assert len(hashes) > 4 and (np.asarray(split_of(hashes)) == 0).all()
    assert len(np.unique(hashes, axis=0)) == len(hashes)


def test_held_out_sets_are_disjoint_from_training():
    experiment = build("plr")
    for level_set in experiment.eval_sets.values():
        assert (np.asarray(split_of(level_set.hashes)) == 2).all()


def test_replay_keeps_each_environment_on_its_level():
    """Finished episodes of a batch are on as many levels as there are environments."""
    for _, _, metrics in steps(build("plr", n_steps=30), 3):
        assert metrics["episodes"] >= 12  # three time limits in each environment
        assert metrics["finished_levels"] == 1.0


def test_episodes_go_on_across_updates():
    experiment = build(
        "dr", auto_reset="resample", continue_episodes=True, n_steps=4, max_steps=10
    )
    times = []
    for old, new, _ in steps(experiment, 12):
        ongoing = new.ongoing
        times.append(np.asarray(ongoing.env_state.state.time))
        # A level goes on with its episode: positions stay off its walls.
        position = np.asarray(ongoing.env_state.state.position)
        walls = np.asarray(new.ongoing_levels.walls)
        assert not walls[np.arange(4), position[:, 0], position[:, 1]].any()
        kept = np.asarray(ongoing.env_state.state.time) > 4
        assert same(
            jax.tree.map(lambda x, k=kept: x[k], old.ongoing_levels),
            jax.tree.map(lambda x, k=kept: x[k], new.ongoing_levels),
        )
    assert np.max(times) > 4  # longer than one rollout


def test_domain_randomisation_as_published_plays_another_maze_at_every_episode():
    """A mean over draws with replacement: 32 (1 - (31/32)^n) of 32 levels after n."""
    experiment = build(
        "dr",
        auto_reset="resample",
        continue_episodes=True,
        levels_per_env=8,
        n_steps=60,
    )
    finished, expected = 0.0, 0.0
    for _, new, metrics in steps(experiment, 8):
        assert new.curriculum.last.hash.shape[0] == 32
        assert len(new.ongoing_levels.walls) == 4
        finished += 32 * metrics["finished_levels"]
        # Episodes are drawn from 4 ongoing levels, too, and those end one batch late.
        expected += 32 * (1 - (35 / 36) ** metrics["episodes"])
        assert metrics["episodes"] > 16
    assert finished == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels_per_env": 0}, "choose at least 1"),
        ({"levels_per_env": 2}, "needs auto_reset=resample"),
        (
            {"levels_per_env": 2, "auto_reset": "resample", "replay_prob": 0.5},
            "that nothing remembers",
        ),
    ],
)
def test_many_levels_an_environment_are_for_levels_that_nothing_remembers(
    settings, message
):
    algorithm = "plr" if "replay_prob" in settings else "dr"
    with pytest.raises(UserError, match=message):
        build(algorithm, **settings)


def test_returns_of_episodes_that_go_on_count_from_their_start():
    """Chains that pay 1 or -1 at every step: a return tells how long it was summed."""
    experiment = training.make_config(
        "agent",
        "delayed_chain",
        settings={
            "min_length": 10,
            "max_length": 40,
            "noisy": True,
            "n_envs": 4,
            "n_steps": 3,
            "channels": 8,
            "head_size": 8,
            "n_heldout": 1,
        },
    ).build()
    longest = 0
    for _, new, _ in steps(experiment, 12):
        time = np.asarray(new.ongoing.env_state.state.time)
        returns = np.asarray(new.ongoing_returns)
        np.testing.assert_array_equal(returns % 2, time % 2)
        assert np.all(np.abs(returns) <= time)
        longest = max(longest, time.max())
    assert longest > 3


def test_a_memory_reset_flag_survives_the_end_of_a_rollout():
    """An episode that ends exactly with the rollout starts the next with no memory."""
    experiment = build(
        "dr", auto_reset="resample", continue_episodes=True, n_steps=10, max_steps=10
    )
    ended = 0
    for _, new, _ in steps(experiment, 4):
        fresh = np.asarray(new.ongoing.env_state.state.time) == 0
        np.testing.assert_array_equal(new.ongoing.reset, fresh)
        ended += fresh.sum()
    assert ended > 0


@pytest.mark.parametrize("anneal_lr", [True, False])
def test_the_rate_of_learning_falls_in_a_line_to_nothing(anneal_lr):
    """One gradient step on the same rollout, at the start and later."""
    experiment = build("dr", anneal_lr=anneal_lr, n_updates=8)
    update = jax.jit(experiment.update)
    state = jax.jit(experiment.init)(jax.random.key(0))

    def moved(n_updates):
        new, _ = update(state.replace(n_updates=jnp.int32(n_updates)))
        leaves = zip(
            jax.tree.leaves(new.learner.params),
            jax.tree.leaves(state.learner.params),
            strict=True,
        )
        return np.concatenate([np.ravel(a - b) for a, b in leaves])

    first = moved(0)
    assert np.abs(first).max() > 1e-5
    for n_updates, share in ((2, 0.75), (8, 0.0)):
        share = share if anneal_lr else 1.0
        np.testing.assert_allclose(moved(n_updates), share * first, atol=1e-6)


def test_the_best_return_that_is_stored_is_scored_against():
    """MaxMC is the best return ever less the value: a stored one counts as it is."""
    experiment = build("plr", score="maxmc", replay_prob=1.0)
    *_, (_, state, _) = steps(experiment, 3)

    def scored(best):
        buffer = state.curriculum.buffer
        buffer = buffer.replace(max_return=jnp.full_like(buffer.max_return, best))
        given = state.curriculum.replace(buffer=buffer)
        key = jax.random.key(1)
        _, draw = experiment.curriculum.sample(given, key, key, TINY["n_envs"])
        levels = draw.batch.levels
        start = experiment.student.start(key, levels)
        play = experiment.student.play(state.learner, state.hyper, key, levels, start)
        advantage = experiment.student.rule.advantage(play.targets)
        given = state.replace(curriculum=given)
        feedback = experiment._score(given, draw, play.trajectory, advantage)
        return draw.role, play.trajectory, feedback, draw.batch.hash

    role, trajectory, feedback, hashes = jax.device_get(jax.jit(scored)(7.0))
    assert role == REPLAYED
    value, done = trajectory.value, trajectory.done
    ends = [np.flatnonzero(done[:, i]) for i in range(TINY["n_envs"])]
    assert all(len(end) for end in ends)
    # The mean over each episode's steps, then over the episodes of a level, of which
    # there may be copies.
    episodes = [
        [v.mean() for v in np.split(value[: end[-1] + 1, i], end[:-1] + 1)]
        for i, end in enumerate(ends)
    ]
    copies = (hashes[:, None] == hashes).all(axis=2)
    means = [
        np.mean([x for j in np.flatnonzero(same) for x in episodes[j]])
        for same in copies
    ]
    np.testing.assert_allclose(feedback.score, 7.0 - np.array(means), rtol=1e-4)


def test_short_rollouts_warn():
    with pytest.warns(UserWarning, match="raise n_steps or lower max_steps"):
        build("plr", n_steps=5)


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ({"score": "learnability", "n_steps": 79}, True),
        ({"score": "learnability", "n_steps": 80}, False),
        ({"second_score": "learnability", "second_weight": 0.5, "n_steps": 79}, True),
        ({"second_score": "learnability", "insert_by": "second", "n_steps": 79}, True),
        # What decides nothing misleads nobody.
        ({"second_score": "learnability", "n_steps": 79}, False),
        ({"score": "learnability", "replay_prob": 0.0, "n_steps": 79}, False),
        ({"score": "pvl", "n_steps": 79}, False),
    ],
)
def test_learnability_of_rollouts_that_see_few_failures_warns(settings, warns):
    env = types.SimpleNamespace(max_episode_steps=10)
    options = {k: v for k, v in settings.items() if k != "n_steps"}
    config = level_replay.ReplayConfig(**options)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        level_replay.warn_of_few_episodes(config, env, settings["n_steps"])
    assert len(said) == warns
    assert all("raise n_steps to 80" in str(each.message) for each in said)


@pytest.mark.parametrize("algorithm", ["plr", "accel", "repaired"])
def test_whoever_replays_by_learnability_is_told_what_it_sees(algorithm):
    with pytest.warns(UserWarning, match="hardly a failure of up to 10: raise n_steps"):
        build(algorithm, score="learnability", max_steps=10, n_steps=32)


def test_true_regret_is_zero_for_nobody_and_bounded():
    for _, _, metrics in steps(build("plr", score="true_regret"), 6):
        for name in ("score_new", "score_replay"):
            if np.isfinite(metrics[name]):
                assert 0.0 <= metrics[name] <= 1.0


def test_diagnostics_of_levels_are_those_of_the_batch():
    for _, new, metrics in steps(build("dr"), 2):
        walls = np.asarray(new.curriculum.last.levels.walls).sum(axis=(1, 2))
        assert metrics["level_n_walls"] == pytest.approx(walls.mean())
