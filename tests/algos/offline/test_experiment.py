"""Offline learning through the runner: every learner by name, resumed and in stages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algos_offline import build_on_push, pushed, settings_on_push
from oracles import offline as oracle
from probes import Push, PushConfig
from tiny import assert_same_bits

from rlgen import datasets, programs, registry, runner
from rlgen.algos.offline.assembly import OfflineAlgorithm, range_factor, with_rewards
from rlgen.algos.offline.outcomes import Conditioned
from rlgen.algos.offline.variants import OnlineAlgorithm
from rlgen.env import check_env
from rlgen.errors import UserError
from rlgen.store import RunStore
from rlgen.transitions import from_episodes

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def folder(push_dataset):
    return push_dataset


def build(name, folder, **settings):
    return build_on_push(name, **{"data": str(folder)} | settings)


def offline_names():
    return [
        name
        for name in registry.names(registry.ALGORITHMS)
        if isinstance(registry.load(registry.ALGORITHMS, name), OfflineAlgorithm)
        and not isinstance(registry.load(registry.ALGORITHMS, name), OnlineAlgorithm)
    ]


NEEDS_GOALS = ("goal-cloning", "stitching")


@pytest.mark.parametrize("cocoa", [False, True])
@pytest.mark.parametrize("name", offline_names())
def test_every_learner_makes_an_experiment(name, cocoa, folder):
    """Traced, not compiled: states keep their types, metrics their names."""
    if name in NEEDS_GOALS:
        with pytest.raises(UserError, match="shows no goals in its observations"):
            build(name, folder)
        return
    if cocoa and name == "decision-transformer":
        with pytest.raises(UserError, match="reads windows"):
            build(name, folder, cocoa=True)
        return
    experiment = build(name, folder, cocoa=cocoa, n_updates=6)
    state = jax.eval_shape(experiment.init, KEY)
    after, metrics = jax.eval_shape(experiment.update, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
    assert "finite" in metrics
    assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())
    results = jax.eval_shape(experiment.evaluate, state, KEY)
    assert results["heldout"].returns.shape == (4, 2)
    assert results["train"].returns.shape == (6, 2)


@pytest.mark.parametrize("name", ["cal-ql", "cql"])
def test_returns_that_bound_values_go_on_beyond_time_limits(name, folder):
    """As built: Cal-QL's values do so too; without a bound, returns stay recorded."""
    data = build(name, folder, discount=0.9).data
    rows = jax.device_get(data.rows)
    cut = 0
    for i in range(data.n_episodes):
        own = rows.episode_id == i
        was_cut_off = bool(rows.truncated[own][-1] & ~rows.terminated[own][-1])
        cut += was_cut_off
        expected = oracle.returns_that_bound(
            rows.reward[own], was_cut_off and name == "cal-ql", 0.9
        )
        np.testing.assert_allclose(rows.return_to_go[own], expected, rtol=1e-4)
    assert cut


def run_of(name, folder, path, **settings):
    config = settings_on_push(name, data=str(folder), run_dir=str(path), **settings)
    entry = registry.load(registry.ALGORITHMS, name)
    experiment = entry.build(config.run, config.levels_config, config.algo)
    store = RunStore.open(str(path.parent), name, config, str(path))
    program = programs.Program(programs.Plan(experiment, config.run))
    return runner.run(experiment, config.run, store, [], program), store, program


def test_stages_follow_one_another_and_chunks_do_not_matter(folder, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("runs")
    settings = {"cocoa": True, "n_updates": 6, "seeds": 2, "eval_every": 2}
    states, store, program = run_of("mopo", folder, tmp / "1", log_every=1, **settings)
    experiment = program.experiment
    assert list(experiment.stages) == ["dynamics", "reverse", "seeker", "agent"]
    rows = store.read_metrics()
    rows = rows[(rows["kind"] == "train") & (rows["seed"] == 0)]
    learned = {
        name: rows["update"][np.isfinite(rows[name])].tolist()
        for name in ("model_loss", "reverse_loss", "seeker_loss", "critic_loss")
    }
    assert learned == {
        "model_loss": [1],
        "reverse_loss": [2],
        "seeker_loss": [3],
        "critic_loss": [4, 5, 6],
    }
    assert rows["gradient_updates"].iloc[-1] == 12
    # Models are no policy: nothing is played before an agent learns.
    assert sorted(path.name for path in store.eval_dir.glob("*.parquet")) == [
        "update_00000004.parquet",
        "update_00000006.parquet",
    ]
    path = str(tmp / "4")
    config = settings_on_push(
        "mopo", data=str(folder), run_dir=path, log_every=4, **settings
    )
    other = RunStore.open(str(tmp), "mopo", config, path)
    again = runner.run(experiment, config.run, other, [], program)
    assert_same_bits(states, again)


@pytest.mark.parametrize("cocoa", [False, True])
def test_features_are_what_the_encoder_says(cocoa, folder):
    """Of a state, or of an anchor and a difference side by side."""
    more = {"anchors": "nearest"} if cocoa else {"normalize_obs": True}
    experiment = build("td3-bc", folder, cocoa=cocoa, **more)
    params = experiment.policy_params(experiment.init(KEY))
    obs = jnp.asarray(experiment.data.rows.obs[:5])
    features = experiment.network.features(params, None, obs, jnp.ones(5, bool))
    data = np.asarray(experiment.data.rows.obs)
    states = (obs - data.mean(axis=0)) / (data.std(axis=0) + 1e-3)
    size = obs.shape[1]
    if cocoa:
        assert features.shape == (5, 2 * size)
        features = features[:, :size] + features[:, size:]
    np.testing.assert_allclose(features, states, atol=1e-4)
    assert not experiment.network.has_value


def test_anchors_are_measured_and_plain_states_are_not(folder):
    experiment = build("td3-bc", folder, cocoa=True, anchors="nearest")
    measured = jax.jit(experiment.diagnose)(experiment.init(KEY), KEY)
    assert set(measured) == {
        f"mahalanobis_{part}_{name}"
        for part in ("state", "anchor", "difference")
        for name in ("heldout", "train")
    }
    # Anchors are recorded states: not far, whoever looks for them.
    assert 0 < float(measured["mahalanobis_anchor_heldout"]) < 5
    assert build("td3-bc", folder).diagnose(None, KEY) == {}


def test_data_are_no_constants_of_the_program(folder):
    """They are arguments: other data of the same shape need no other program."""
    experiment = build("bc", folder)
    traces = []

    @jax.jit
    def update(data, state):
        traces.append(1)
        return experiment.with_data(data).update(state)

    state = jax.jit(experiment.init)(KEY)
    first, _ = update(experiment.data, state)
    rows = experiment.data.rows
    other = experiment.data.replace(rows=rows.replace(action=-rows.action))
    second, _ = update(other, state)
    assert len(traces) == 1
    kernels = [s.stages["agent"].params["actor"][0]["kernel"] for s in (first, second)]
    assert not np.array_equal(*kernels)
    # The experiment itself still has its own.
    np.testing.assert_array_equal(experiment.data.rows.action, rows.action)


def test_a_cloned_controller_holds_its_target_on_levels_it_never_saw(folder, tmp_path):
    settings = {"n_updates": 4, "steps_per_update": 150, "actor_lr": 3e-3}
    states, _, program = run_of("bc", folder, tmp_path / "bc", **settings)
    experiment = program.experiment
    results = jax.jit(experiment.evaluate)(jax.tree.map(lambda x: x[0], states), KEY)
    assert float(results["heldout"].success.mean()) > 0.7
    before = experiment.evaluate(experiment.init(KEY), KEY)
    assert float(before["heldout"].success.mean()) < 0.5


@pytest.mark.parametrize("name", ["rvs", "decision-transformer"])
def test_who_is_told_a_return_reaches_more_the_more_it_is_told(name, folder, tmp_path):
    settings = {"n_updates": 2, "steps_per_update": 300, "actor_lr": 3e-3}
    if name == "decision-transformer":
        settings["warmup"] = 10
    states, _, program = run_of(name, folder, tmp_path / name, **settings)
    experiment = program.experiment
    assert isinstance(experiment.env, Conditioned)
    state = jax.tree.map(lambda x: x[0], states)
    returns = []
    for target in (4.0, experiment.env.target):
        told = dataclasses.replace(experiment.env, target=target)
        here = dataclasses.replace(experiment, env=told)
        returns.append(float(here.evaluate(state, KEY)["train"].returns.mean()))
    assert returns[1] > returns[0] + 0.2, returns


def test_conditioned_environments_keep_the_contract():
    env = Conditioned(Push(), target=3.0, tells_action=True)
    level = PushConfig().make_space().example()
    check_env(env, jax.tree.map(jnp.asarray, level), KEY)
    state, obs = env.reset(KEY, level)
    np.testing.assert_allclose(obs[2:], [3.0 / 12, 0.0])
    step = env.step(KEY, level, state, jnp.array([0.5]))
    np.testing.assert_allclose(step.obs[2], (3.0 - step.reward) / 11, rtol=1e-6)
    assert float(step.obs[3]) == 0.5


def test_rewards_are_scaled_by_the_range_of_returns():
    data = from_episodes(pushed()[0], discount=0.9)
    factor = np.float32(range_factor(data))
    scaled = with_rewards(data, factor, 0.0, 0.9)
    totals = np.bincount(scaled.rows.episode_id, scaled.rows.reward)
    assert np.ptp(totals) == pytest.approx(1000.0, rel=1e-4)
    ratio = np.asarray(scaled.rows.reward) / np.asarray(data.rows.reward)
    np.testing.assert_allclose(ratio, factor, rtol=1e-5)
    np.testing.assert_allclose(
        scaled.rows.return_to_go, ratio[0] * data.rows.return_to_go, rtol=1e-4
    )
    flat = data.replace(rows=data.rows.replace(reward=np.zeros(len(data.rows))))
    with pytest.raises(UserError, match="the same return"):
        range_factor(flat)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("bc", {"data": ""}, "Name a dataset with --data"),
        ("bc", {"data": "nowhere"}, "There is no dataset nowhere"),
        ("bc", {"reward_scaling": "log"}, "choose none or range"),
        ("td3-bc", {"steps_per_update": 3}, "must be a multiple of 2"),
        ("mopo", {"n_updates": 1}, "leaves the dataset none of 1"),
    ],
)
def test_settings_that_cannot_be(name, settings, sentence, folder):
    with pytest.raises(UserError, match=sentence):
        build(name, folder, **settings)


def test_endings_that_cannot_be_told_are_said(folder, monkeypatch):
    assert build("mopo", folder, termination="analytic", n_updates=2)
    monkeypatch.delattr(Push, "terminates")
    with pytest.raises(UserError, match="choose termination=learned"):
        build("mopo", folder, termination="analytic", n_updates=2)


def test_what_a_flat_file_lacks_is_said(tmp_path):
    rows = from_episodes(pushed()[0]).rows
    path = tmp_path / "flat.npz"
    np.savez(
        path,
        obs=rows.obs,
        action=rows.action,
        reward=rows.reward,
        next_obs=rows.next_obs,
        terminated=rows.terminated,
        truncated=rows.truncated,
    )
    assert build("iql", path).data.rows.next_action is None
    for name, lacks in (
        ("rebrac", "next_action"),
        ("cal-ql", "return_to_go"),
        ("rvs", "return_to_go"),
    ):
        with pytest.raises(UserError, match=f"needs {lacks}"):
            build(name, path)


def test_levels_that_are_held_out_are_not_trained_on(tmp_path):
    episodes, _ = pushed()
    config = PushConfig()
    held_out = config.eval_sets()["heldout"]
    folder = datasets.save(
        tmp_path / "push" / "leak-v0",
        [dataclasses.replace(e, level_id=0) for e in episodes[:3]],
        name="push/leak-v0",
        observation_space=Push().observation_space,
        action_space=Push().action_space,
        level_set=held_out,
    )
    with pytest.raises(UserError, match="held-out levels must not be trained on"):
        build("bc", folder)
