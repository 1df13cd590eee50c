"""Success classifiers: what they learn from, and how their threshold is chosen."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reset_free_data import (
    KEY,
    SMALL,
    examples,
    small,
    task_episodes,
    taught,
)

from rlgen.algos.offline.classifier import (
    ADAPTED,
    CHOOSE,
    CLASSIFIER,
    MEASURE,
    TRAIN,
    classifier_stages,
    lowest_threshold,
    with_examples,
)
from rlgen.algos.offline.reset_free import only
from rlgen.errors import UserError
from rlgen.transitions import from_episodes


def test_the_threshold_is_that_of_a_plain_search():
    rng = np.random.default_rng(0)
    for n in (1, 5, 40):
        # Rounded: some scores are equal.
        scores = np.round(rng.normal(size=60), 1).astype(np.float32)
        negative = np.zeros(60, bool)
        negative[rng.choice(60, n, replace=False)] = True
        for n_allowed in range(min(n, 4)):
            got = float(lowest_threshold(scores, negative, n_allowed))
            fitting = [
                t
                for t in (0.0, *scores[negative].tolist())
                if t >= 0 and np.sum(scores[negative] > t) <= n_allowed
            ]
            assert got == pytest.approx(min(fitting)), (n, n_allowed)


def test_examples_are_sorted_and_held_back_by_whole_episodes():
    data = examples()
    part, rows = np.asarray(data.part), data.rows
    seen = {}
    for episode in range(80):
        own = np.flatnonzero(rows.episode_id == episode)
        assert len(set(part[own])) == 1
        kind = (int(rows.level_id[own[0]]), bool(rows.reward[own].sum()))
        seen.setdefault(kind, []).append(part[own[0]])
        np.testing.assert_array_equal(data.is_success[own], rows.reward[own] > 0)
    wanted = [TRAIN, TRAIN, TRAIN, CHOOSE, MEASURE] * 2
    assert len(seen) == 8 and all(parts == wanted for parts in seen.values())
    for name, levels in (("prior", (0, 1)), ("target", (2, 3))):
        successes, others = data.rows_of[name]
        learned = np.concatenate([successes, others])
        assert set(rows.level_id[learned]) == set(levels)
        assert (part[learned] == TRAIN).all() and len(set(learned.tolist())) == 144
        assert data.is_success[successes].all() and not data.is_success[others].any()


def test_false_positives_are_held_to_their_level_on_prior_tasks_and_on_the_target():
    """Labels are noise here: without a threshold half of them would be false."""
    data, (stages, states, metrics) = examples(), small()
    assert list(stages) == [CLASSIFIER, ADAPTED]
    stage, state = stages[ADAPTED], states[ADAPTED]
    claims = np.asarray(stage.claims(state, data.rows.next_obs))
    scores = np.asarray(stage.score(state.layers, data.rows.next_obs))
    np.testing.assert_array_equal(claims, scores > float(state.threshold))
    rates = []
    for of in (~data.is_target, data.is_target):
        held_back = of & (data.part == CHOOSE) & ~data.is_success
        assert held_back.sum() == 44  # 4 failures of 6 and 4 demonstrations of 5
        rates.append(claims[held_back].sum())
    assert max(rates) == 3  # the most that 7 % of 44 allow
    for of, name in ((True, ""), (data.is_target, "target_")):
        measured = of & (data.part == MEASURE)
        for which, ones in (
            ("positives", claims[measured & ~data.is_success]),
            ("negatives", ~claims[measured & data.is_success]),
        ):
            metric = metrics[f"adapted_{name}false_{which}"]
            assert metric == pytest.approx(ones.mean()), (name, which)


def test_a_classifier_sees_what_is_visible_and_goes_on_from_prior_tasks():
    stages, states, _ = small()
    obs = jnp.ones((1, 3))
    score = functools.partial(stages[ADAPTED].score, states[ADAPTED].layers)
    assert score(obs) == score(obs.at[0, 1].set(9.0)) != score(obs.at[0, 2].set(9.0))
    data = jax.tree.map(jnp.asarray, examples())
    # Without a step the adapted one is the earlier one.
    idle = dataclasses.replace(stages[ADAPTED], n_steps=0)
    state, _ = idle.update(idle.init(KEY, data), states, data, KEY)
    for a, b in zip(
        jax.tree.leaves(state.layers),
        jax.tree.leaves(states[CLASSIFIER].layers),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_what_can_be_seen_is_learned():
    """Successes are where the first number is high, on all tasks alike."""
    episodes = []
    for episode in task_episodes():
        shown = episode.observations.copy()
        shown[1:, 0] = np.where(episode.rewards > 0, 2.0, -1.0)
        shown[1:, 0] += 0.3 * episode.observations[1:, 0]
        episodes.append(dataclasses.replace(episode, observations=shown))
    data = with_examples(from_episodes(episodes), [2, 3])
    config = dataclasses.replace(SMALL, classifier_lr=1e-2)
    _, _, metrics = taught(config, has_prior=False, data=data)
    assert metrics["adapted_target_false_negatives"] < 0.3
    assert metrics["adapted_target_false_positives"] < 0.1


def test_examples_that_are_missing_are_said():
    fails = [e for e in task_episodes() if not e.rewards.sum()]
    with pytest.raises(UserError, match="no demonstration that reaches its target"):
        with_examples(from_episodes(fails), [2, 3])
    few = with_examples(from_episodes(task_episodes(n=3)), [2, 3])
    with pytest.raises(UserError, match="No target task has 4 episodes that end alike"):
        classifier_stages(SMALL, False, (0,), 1, few)
    alone = with_examples(only(from_episodes(task_episodes()), [2, 3]), [2, 3])
    assert alone.n_episodes == 40 and set(alone.rows.level_id) == {2, 3}
    assert alone.rows.episode_id[-1] == 39
    with pytest.raises(UserError, match="no demonstrations of prior tasks"):
        classifier_stages(SMALL, True, (0,), 1, alone)
