"""Steps as flat arrays: against plain loops; one sentence for each mistake."""

from __future__ import annotations

import dataclasses

import gymnasium
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import offline as oracle

from rlgen import transitions
from rlgen.errors import UserError
from rlgen.transitions import Episode, from_episodes, from_steps

Box = gymnasium.spaces.Box
OBS, ACTION = Box(-np.inf, np.inf, (3,), np.float32), Box(-1, 1, (2,), np.float32)
END_ANYHOW = "neither"


def episode(n_steps, seed=0, level_id=0, end="terminated"):
    rng = np.random.default_rng(seed)
    last = np.arange(n_steps) == n_steps - 1
    return Episode(
        observations=rng.normal(size=(n_steps + 1, 3)).astype(np.float32),
        actions=rng.uniform(-1, 1, (n_steps, 2)).astype(np.float32),
        rewards=rng.normal(size=n_steps).astype(np.float32),
        terminations=last & (end == "terminated"),
        truncations=last & (end == "truncated"),
        level_id=level_id,
    )


EPISODES = [
    episode(4, 0, 2, "terminated"),
    episode(1, 1, 0, "truncated"),
    episode(7, 2, 1, END_ANYHOW),
    episode(1, 3, 2, "terminated"),
]


def by_hand(episodes, discount):
    """One dict per step, made one step after another."""
    rows = []
    for number, e in enumerate(episodes):
        n = len(e.rewards)
        for t in range(n):
            last = t == n - 1
            rows.append(
                {
                    "obs": e.observations[t],
                    "action": e.actions[t],
                    "reward": e.rewards[t],
                    "next_obs": e.observations[t + 1],
                    "terminated": e.terminations[t],
                    "truncated": last and not e.terminations[t],
                    "next_action": np.zeros(2) if last else e.actions[t + 1],
                    "has_next_action": not last,
                    "return_to_go": sum(
                        discount**k * float(e.rewards[t + k]) for k in range(n - t)
                    ),
                    "episode_id": number,
                    "time": t,
                    "level_id": e.level_id,
                }
            )
    return rows


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.0])
def test_episodes_are_laid_one_after_another(discount):
    data = from_episodes(EPISODES, discount=discount)
    rows = by_hand(EPISODES, discount)
    assert len(data.rows) == len(rows) == 13 and data.n_episodes == 4
    for field in dataclasses.fields(data.rows):
        expected = np.array([row[field.name] for row in rows])
        got = getattr(data.rows, field.name)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(data.episode_start, [0, 4, 5, 12])
    np.testing.assert_array_equal(data.episode_length, [4, 1, 7, 1])
    kinds = {
        "float32": ("obs", "action", "reward", "next_obs", "next_action"),
        "bool": ("terminated", "truncated", "has_next_action"),
        "int32": ("episode_id", "time", "level_id"),
    }
    for kind, fields in kinds.items():
        assert all(getattr(data.rows, f).dtype == kind for f in fields)


def test_they_are_a_pytree_that_gathers():
    data = from_episodes(EPISODES)
    batch = jax.tree.map(lambda x: x[np.array([3, 12])], data.rows)
    assert len(batch) == 2
    np.testing.assert_array_equal(batch.obs[1], EPISODES[3].observations[0])


def loop(rewards, discount):
    total, out = 0.0, []
    for reward in reversed(rewards):
        total = float(reward) + discount * total
        out.append(total)
    return out[::-1]


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    discount=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_returns_are_those_of_a_loop(lengths, discount, seed):
    """Bit for bit: both add in the same order, in float64."""
    reward = np.random.default_rng(seed).normal(size=sum(lengths)).astype(np.float32)
    length = np.array(lengths, np.int32)
    start = np.cumsum(length) - length
    got = transitions.returns_to_go(reward, start, length, discount)
    parts = np.split(reward, start[1:])
    expected = np.concatenate([loop(part, discount) for part in parts])
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected.astype(np.float32))


def test_an_undiscounted_return_stays_exact_over_a_long_episode():
    n = 20_000
    got = transitions.returns_to_go(
        np.full(n, 0.1, np.float32), np.array([0]), np.array([n]), 1.0
    )
    np.testing.assert_allclose(got[0], n * float(np.float32(0.1)), rtol=1e-7)


def changed(**arrays):
    return dataclasses.replace(episode(4), **arrays)


@pytest.mark.parametrize(
    ("episodes", "sentence"),
    [
        ([], "the set holds no episodes: collect some."),
        (
            [episode(2), changed(observations=np.zeros((4, 3)))],
            "Episode 1 of the set has 4 observations for 4 steps, but needs 5: record "
            "the observation that it ended in too.",
        ),
        (
            [changed(observations=np.zeros((6, 3)))],
            "Episode 0 of the set has 4 rewards, but its observations are for 5 steps: "
            "record the dataset again.",
        ),
        ([changed(actions=np.zeros((3, 2)))], "its actions are for 3 steps"),
        ([changed(terminations=np.zeros(5, bool))], "terminations are for 5 steps"),
        ([changed(truncations=np.zeros(1, bool))], "truncations are for 1 steps"),
        ([episode(0)], "Episode 0 of the set has no steps: leave it out."),
        (
            [episode(3), changed(truncations=np.arange(4) == 1)],
            "Episode 1 of the set goes on after its end at step 1: split it there.",
        ),
        ([changed(terminations=np.arange(4) == 0)], "after its end at step 0"),
        (
            [episode(2), changed(observations=np.zeros((5, 4)))],
            "Episode 1 of the set has observations of shape (4,), but episode 0 has "
            "(3,): record them in one environment.",
        ),
        ([episode(2), changed(actions=np.zeros((4, 1)))], "has actions of shape (1,)"),
    ],
)
def test_episodes_that_do_not_fit_get_one_sentence(episodes, sentence):
    with pytest.raises(UserError) as error:
        from_episodes(episodes, name="the set")
    assert sentence in str(error.value) and str(error.value).endswith(".")


def test_what_is_right_passes_the_check():
    transitions.check(from_episodes(EPISODES), OBS, ACTION, n_levels=3)


def with_row(**values):
    """The episodes' data with row 5 changed."""
    data = from_episodes(EPISODES)
    rows = data.rows
    for field, value in values.items():
        array = np.array(getattr(rows, field))
        array[5] = value
        rows = rows.replace(**{field: array})
    return data.replace(rows=rows)


@pytest.mark.parametrize(
    ("data", "spaces", "sentence"),
    [
        (None, (OBS, gymnasium.spaces.Discrete(3)), "need actions in a box"),
        (None, (gymnasium.spaces.Dict({"a": OBS}), ACTION), "observations in one box"),
        (
            None,
            (Box(-1, 1, (4,), np.float32), ACTION),
            "It has observations of shape (3,), but the environment's have (4,): name "
            "the environment it was collected in, with the same settings.",
        ),
        (None, (OBS, Box(-1, 1, (1,), np.float32)), "actions of shape (2,)"),
        *(
            (
                with_row(**{field: value}),
                (OBS, ACTION),
                f"It holds 1 steps whose {field} is not finite (the first is step 5): "
                "drop their episodes.",
            )
            for field, value in (
                ("obs", np.nan),
                ("next_obs", np.inf),
                ("action", -np.inf),
                ("reward", np.nan),
                ("next_action", np.nan),
                ("return_to_go", np.inf),
            )
        ),
        (
            with_row(action=1.001),
            (OBS, ACTION),
            "It holds 1 actions outside the environment's box -1 to 1: scale them into",
        ),
        (with_row(action=-1.001), (OBS, ACTION), "It holds 1 actions outside"),
        (
            with_row(level_id=3),
            (OBS, ACTION),
            "It was played on level 3, which is missing from its level set of 3: "
            "collect it again.",
        ),
        (with_row(level_id=-1), (OBS, ACTION), "It was played on level -1"),
    ],
)
def test_what_cannot_be_learned_from_gets_one_sentence(data, spaces, sentence):
    with pytest.raises(UserError) as error:
        transitions.check(
            data or from_episodes(EPISODES), *spaces, n_levels=3, name="It"
        )
    assert sentence in str(error.value)


def test_actions_may_exceed_the_box_by_rounding():
    transitions.check(with_row(action=1.00001), OBS, ACTION)


def test_without_a_level_set_any_level_will_do():
    transitions.check(with_row(level_id=77), OBS, ACTION)


def as_steps(data, **extra):
    fields = [f.name for f in dataclasses.fields(data.rows)]
    return {name: np.asarray(getattr(data.rows, name)) for name in fields} | extra


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_steps_in_any_order_become_episodes_again():
    data = from_episodes(EPISODES, discount=0.9)
    steps = as_steps(data)
    steps["episode_id"] = np.array([7, 9, 11, 40])[steps["episode_id"]]
    order = np.random.default_rng(0).permutation(13)
    assert_same(from_steps({k: v[order] for k, v in steps.items()}), data)


def test_without_ids_an_episode_ends_where_a_step_says_so():
    data = from_episodes(EPISODES)
    given = as_steps(data)
    for name in ("episode_id", "time", "has_next_action"):
        del given[name]
    given["truncated"] = given["truncated"] & (np.arange(13) != 11)  # ends anyhow
    given["terminated"] = given["terminated"].astype(np.uint8)
    given["obs"] = given["obs"].astype(np.float64)
    got = from_steps(given)
    # The third and the fourth episode are one now.
    np.testing.assert_array_equal(got.episode_length, [4, 1, 8])
    np.testing.assert_array_equal(got.rows.time[5:], np.arange(8))
    np.testing.assert_array_equal(got.rows.episode_id, [0] * 4 + [1] + [2] * 8)
    assert got.rows.obs.dtype == np.float32 and got.rows.terminated.dtype == bool
    np.testing.assert_array_equal(
        got.rows.has_next_action, ~np.isin(range(13), (3, 4, 12))
    )


def test_steps_without_what_follows_do_without():
    given = as_steps(from_episodes(EPISODES))
    for name in ("next_action", "return_to_go", "time", "level_id"):
        del given[name]
    got = from_steps(given)
    assert got.rows.next_action is None and got.rows.has_next_action is None
    assert got.rows.return_to_go is None
    np.testing.assert_array_equal(got.rows.level_id, np.zeros(13))
    transitions.check(got, OBS, ACTION)
    for field in ("next_action", "return_to_go"):
        with pytest.raises(UserError, match=f"ReBRAC needs {field}, which the dataset"):
            transitions.require(got, field, "ReBRAC")
        transitions.require(from_episodes(EPISODES), field, "ReBRAC")


def test_a_recording_that_stops_is_cut_off_there():
    given = as_steps(from_episodes([episode(3, end=END_ANYHOW)]))
    given["truncated"] = np.zeros(3, bool)
    np.testing.assert_array_equal(from_steps(given).rows.truncated, [0, 0, 1])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"next_obs": None},
            "has no array next_obs or next_observations, which",
        ),
        ({"action": np.zeros((12, 2))}, "has 13 rewards, but action of shape (12, 2)"),
        ({"time": np.zeros(())}, "has 13 rewards, but time of shape ()"),
        ({"reward": np.zeros(0)}, "the file holds no steps"),
        (
            {"next_obs": np.zeros((13, 4))},
            "has obs of shape (3,), but next_obs",
        ),
        (
            {"next_action": np.zeros((13, 1))},
            "of shape (2,), but next_action",
        ),
        ({"reward": np.zeros((13, 2))}, "has reward of shape (13, 2), but needs one"),
        ({"episode_id": np.array(list("aaaabbbbccccc"))}, "has episode_id of type <U1"),
        ({"terminated": np.array(["False"] * 13)}, "has terminated of type <U5"),
        (
            {"terminated": np.full(13, np.nan)},
            "terminated that are neither 0 nor 1",
        ),
        ({"truncated": np.full(13, 2)}, "has truncated that are neither 0 nor 1"),
        ({"level_id": np.full(13, 0.5)}, "has level_id such as 0.5: choose whole"),
        ({"time": np.full(13, np.nan)}, "has time such as nan: choose whole"),
        ({"obs": np.array([["x"] * 3] * 13)}, "has obs of type <U1, but needs numbers"),
    ],
)
def test_steps_that_do_not_fit_get_one_sentence(changes, sentence):
    given = as_steps(from_episodes(EPISODES), **changes)
    with pytest.raises(UserError) as error:
        from_steps({k: v for k, v in given.items() if v is not None}, name="the file")
    assert sentence in str(error.value)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("dtype", [bool, np.float32, np.uint8])
def test_names_of_d4rl_columns_and_flags_of_numbers_are_read(columns, dtype):
    """As replay buffers of other libraries write them: the same steps."""
    plain = as_steps(from_episodes(EPISODES))
    theirs = {
        "observations": plain["obs"],
        "actions": plain["action"],
        "rewards": plain["reward"],
        "next_observations": plain["next_obs"],
        "terminals": plain["terminated"].astype(dtype),
        "timeouts": plain["truncated"].astype(dtype),
    }
    if columns:
        one = ("rewards", "terminals", "timeouts")
        theirs |= {name: theirs[name][:, None] for name in one}
    got, want = (
        from_steps(theirs),
        from_steps({k: plain[k] for k in transitions._D4RL.values()}),
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    np.testing.assert_array_equal(got.rows.reward, plain["reward"])
    np.testing.assert_array_equal(got.rows.terminated, plain["terminated"])


DENSE = {
    "falls": (np.linspace(1.0, 0.0, 7), "truncated"),
    "once": (np.eye(6)[0] * 10.0, "truncated"),
    "rises": (np.linspace(0.0, 1.0, 5), "truncated"),
    "ends": (np.linspace(0.0, 2.0, 5), "terminated"),
}
SPARSE = {
    "fails": (np.full(5, -1.0), "truncated"),
    "fails and ends": (np.full(3, -1.0), "terminated"),
    "succeeds": (np.array([-1.0, -1.0, 0.0]), "terminated"),
    "succeeds and is cut off": (np.array([-1.0, 0.0, 0.0, -1.0]), "truncated"),
}


@pytest.mark.parametrize(("kinds", "failing"), [(DENSE, None), (SPARSE, -1.0)])
def test_returns_that_bound_values_are_those_of_cal_ql(kinds, failing):
    """The mean reward for ever would bound the last step of what falls to 0 by 5."""
    episodes = [
        dataclasses.replace(
            episode(len(reward), end=end), rewards=reward.astype(np.float32)
        )
        for reward, end in kinds.values()
    ]
    data = from_episodes(episodes, discount=0.9)
    assert transitions.failing_reward(data) == failing
    data = transitions.with_endless_returns(data, 0.9)
    expected = [
        oracle.returns_that_bound(reward, end == "truncated", 0.9, failing)
        for reward, end in kinds.values()
    ]
    np.testing.assert_allclose(
        data.rows.return_to_go, np.concatenate(expected), rtol=1e-5, atol=1e-6
    )
