"""The model of levels: its graph against an adjacency matrix, its loss, its samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlgen import training
from rlgen.algos.ued.curriculum import GENERATED_LEVELS
from rlgen.algos.ued.level_generator import GeneratorConfig, InterpolatedLevels, slerp
from rlgen.algos.ued.level_replay import LevelReplay, ReplayConfig
from rlgen.algos.ued.level_vae import (
    LevelVAE,
    Proposal,
    VAEConfig,
    load_variables,
    neighbour_sum,
    node_features,
    save_variables,
    targets_of,
)
from rlgen.algos.ued.level_vae_training import LevelVAEExperiment
from rlgen.envs.cave.env import Cave
from rlgen.envs.cave.levels import Blocks, parse_cave
from rlgen.errors import UserError
from rlgen.levels import LevelSet, split_of

SPACE = Blocks(5, 6, max_blocks=12)
SMALL = VAEConfig(latent_size=16, vae_hidden=32, vae_batch=8, vae_lr=3e-3)
VAE = LevelVAE(SPACE, SMALL)
GIVEN = LevelSet.generate(SPACE, 24, seed=0, split="train", name="given")
SAMPLE = jax.jit(lambda key: SPACE.to_grid(SPACE.sample(key)))


def sample_grid(seed):
    return jax.device_get(SAMPLE(jax.random.key(seed)))


def adjacency(grid):
    """The union of the five layers of edges, as a matrix over cells."""
    height, width = grid.kinds.shape
    kinds = {
        tuple(at): SPACE.LEVEL.KINDS[k].name.lower()
        for at, k in np.ndenumerate(grid.kinds)
    }
    goal, start = tuple(grid.goal), tuple(grid.start)
    kinds[goal], kinds[start] = "goal", "start"
    blocked = {at for at, kind in kinds.items() if kind in ("wall", "lava")}
    cells = sorted(kinds)
    matrix = np.zeros((height * width, height * width))
    for i, a in enumerate(cells):
        for j, b in enumerate(cells):
            beside = abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1
            linked = {kinds[a], kinds[b]} in (
                {"goal", "lava"},
                {"goal", "moss"},
                {"goal", "start"},
            )
            matrix[i, j] = (beside and ((a in blocked) == (b in blocked))) or linked
    return matrix


@pytest.mark.parametrize("seed", range(8))
def test_neighbour_sums_equal_the_adjacency_matrix(seed):
    grid = sample_grid(seed)
    x = np.random.default_rng(seed).normal(size=(5, 6, 3)).astype(np.float32)
    expected = (adjacency(grid) @ x.reshape(30, 3)).reshape(5, 6, 3)
    sums = jax.jit(neighbour_sum, static_argnums=1)(grid, SPACE.free_kinds, x)
    np.testing.assert_allclose(sums, expected, rtol=1e-4, atol=1e-5)


def test_every_cell_has_one_feature():
    grid = sample_grid(0)
    features = np.asarray(node_features(grid, 4))
    assert (features.sum(axis=-1) == 1).all()
    assert features[tuple(grid.start)].argmax() == 4
    assert features[tuple(grid.goal)].argmax() == 5


def test_targets_split_the_ends_between_free_kinds():
    level = parse_cave('S#~"\n...G\n')
    grid = Blocks(2, 4, max_blocks=2).to_grid(level)
    targets = targets_of(grid, SPACE.free_kinds)
    np.testing.assert_array_equal(targets["kinds"][0, 0], [0.5, 0, 0, 0.5])
    np.testing.assert_array_equal(targets["kinds"][0, 1], [0, 1, 0, 0])
    goal_mask = [True, False, False, True, True, True, True, True]
    assert targets["goal_mask"].tolist() == goal_mask
    assert targets["start_mask"].tolist() == [*goal_mask[:7], False]
    assert (int(targets["goal"]), int(targets["start"])) == (7, 0)


def test_arcs():
    a, b = jnp.array([2.0, 0.0]), jnp.array([0.0, 2.0])
    half = 2.0 / np.sqrt(2)
    np.testing.assert_allclose(slerp(a, b, 0.5), [half, half], rtol=1e-6)
    np.testing.assert_allclose(slerp(a, b, 0.0), a, atol=1e-6)
    np.testing.assert_allclose(slerp(a, b, 1.0), b, atol=1e-6)
    # Nearly aligned: the line.
    np.testing.assert_allclose(slerp(a, 3 * a, 0.5), 2 * a, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda t: slerp(a, a, t).sum())(0.3))


class TestDraw:
    def draw(self, kinds, goal, start, n=64):
        proposal = Proposal(
            kinds=jnp.asarray(kinds, jnp.float32),
            goal=jnp.asarray(goal, jnp.float32),
            start=jnp.asarray(start, jnp.float32),
        )
        keys = jax.random.split(jax.random.key(0), n)
        draw_all = jax.vmap(VAE.draw, in_axes=(0, None))
        return jax.jit(lambda *x: VAE.grids(draw_all(*x)))(keys, proposal)

    def test_a_cell_is_free_if_free_kinds_have_more_than_half(self):
        """Kinds are empty, wall, lava, moss: the likeliest one does not decide."""
        kinds = np.log(np.full((5, 6, 4), [0.29, 0.4, 0.01, 0.3]))
        kinds[0, 0] = np.log([0.4, 0.3, 0.29, 0.01])
        grids = self.draw(kinds, np.zeros(30), np.zeros(30), 400)
        assert set(np.unique(grids.kinds[:, 0, 0])) == {1, 2}
        others = np.asarray(grids.kinds)[:, 1:].reshape(-1)
        assert set(np.unique(others)) == {0, 3}
        # 30 : 29, save that the ends are empty.
        assert np.mean(others == 3) == pytest.approx(0.3 / 0.59 * 27 / 29, abs=0.03)

    def test_ends_are_drawn_from_their_logits_on_free_cells(self):
        kinds = np.zeros((5, 6, 4))
        kinds[..., 0] = 20.0
        kinds[2, :, :2] = [0.0, 20.0]
        goal = np.full(30, -20.0)
        goal[[3, 13, 20]] = [0.0, 5.0, np.log(3.0)]  # 13 is in a wall
        grids = self.draw(kinds, goal, goal, 800)
        at = np.asarray(grids.goal @ jnp.array([6, 1]))
        counts = [np.sum(at == 3), np.sum(at == 20)]
        assert sum(counts) == 800
        assert stats.chisquare(counts, [200, 600]).pvalue > 1e-3
        starts = np.asarray(grids.start @ jnp.array([6, 1]))
        assert set(starts) == {3, 20} and not np.any(starts == at)

    def test_without_free_cells_the_ends_are_still_two_cells(self):
        kinds = np.zeros((5, 6, 4))
        kinds[..., 1] = 20.0
        grids = self.draw(kinds, np.zeros(30), np.zeros(30))
        assert bool(jnp.all(jnp.any(grids.goal != grids.start, axis=1)))


def test_loss_equals_numpy():
    fit = jax.jit(VAE.init)(jax.random.key(0))
    grids = jax.jit(VAE.grids)(GIVEN.levels)
    params = {name: part["params"] for name, part in fit.variables.items()}
    config = dataclasses.replace(SMALL, layout_coef=2.0, goal_coef=3.0, start_coef=5.0)
    vae = LevelVAE(SPACE, config)
    total, (_, metrics) = jax.jit(vae.loss)(
        params, fit.variables, grids, jax.random.key(1)
    )
    expected = 0.0448 * metrics["kl"] - (
        2 * metrics["log_layout"] + 3 * metrics["log_goal"] + 5 * metrics["log_start"]
    )
    assert float(total) == pytest.approx(float(expected), rel=1e-5)

    # Terms by hand, from what the modules say.
    def say(module, name, x):
        def apply(variables, x):
            return module.apply(variables, x, True, mutable=["batch_stats"])[0]

        return jax.jit(apply)(fit.variables[name], x)

    mean, std = say(vae._encoder, "encoder", grids)
    kl = np.mean(
        [stats_kl(m, s) for m, s in zip(mean.ravel(), std.ravel(), strict=True)]
    )
    assert float(metrics["kl"]) == pytest.approx(kl, rel=1e-4)
    z = mean + std * jax.random.normal(jax.random.key(1), mean.shape)
    _, goal, start = say(vae._decoder, "decoder", z)
    goal, start, grids = jax.device_get((goal, start, grids))
    log_goal, log_start = [], []
    for i in range(len(GIVEN)):
        kinds = np.asarray(grids.kinds[i]).reshape(-1)
        at_goal, at_start = (
            int(x[i, 0]) * 6 + int(x[i, 1]) for x in (grids.goal, grids.start)
        )
        free = np.isin(kinds, [0, 3])
        for logits, at, mask, out in (
            (goal[i], at_goal, free, log_goal),
            (start[i], at_start, free & (np.arange(30) != at_goal), log_start),
        ):
            p = np.exp(np.asarray(logits, np.float64)) * mask
            out.append(np.log(p[at] / p.sum()))
    assert float(metrics["log_goal"]) == pytest.approx(np.mean(log_goal), rel=1e-4)
    assert float(metrics["log_start"]) == pytest.approx(np.mean(log_start), rel=1e-4)


def stats_kl(mean, std):
    """KL(N(mean, std) || N(0, 1)) by its definition."""
    return 0.5 * (std**2 + mean**2 - 1) - np.log(std)


@pytest.fixture(scope="module")
def trained():
    grids = jax.jit(VAE.grids)(GIVEN.levels)
    return jax.jit(lambda key: VAE.train(key, grids, 300))(jax.random.key(0))


def test_a_trained_model_remembers_its_levels(trained):
    grids = jax.jit(VAE.grids)(GIVEN.levels)
    mean, _ = jax.jit(VAE.encode)(trained, grids)
    proposals = jax.jit(VAE.decode)(trained["decoder"], mean)
    assert (
        np.mean(jnp.argmax(proposals.goal, -1) == grids.goal @ jnp.array([6, 1])) > 0.8
    )
    kinds = jnp.argmax(proposals.kinds, -1)
    assert np.mean(kinds == grids.kinds) > np.mean(grids.kinds == 0)


def test_a_model_round_trips_through_its_file(trained, tmp_path):
    save_variables(tmp_path / "level-vae-0.npz", trained)
    again = load_variables(str(tmp_path), VAE)
    for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    other = LevelVAE(Blocks(5, 5, max_blocks=12), SMALL)
    with pytest.raises(UserError, match="use the size and settings that it was train"):
        load_variables(str(tmp_path), other)
    with pytest.raises(UserError, match="is not a model of levels"):
        load_variables(str(tmp_path / "nothing.npz"), VAE)


def test_generated_levels_are_played_and_are_never_held_out(trained):
    generator = InterpolatedLevels(VAE, GIVEN, GeneratorConfig(), trained)
    config = ReplayConfig(
        replay_prob=1.0, generate_prob=1.0, train_on_new=False, support="dataset"
    )
    replay = LevelReplay(SPACE, config, 24, dataset=GIVEN, generator=generator)
    state = jax.jit(replay.init)(jax.random.key(0))
    state = state.replace(clock=jnp.int32(5), last_role=jnp.int32(1))
    draw_batch = jax.jit(lambda key: replay.sample(state, key, key, 24)[1])
    for seed in range(8):
        draw = draw_batch(jax.random.key(seed))
        assert int(draw.role) == GENERATED_LEVELS and not bool(draw.trains)
        assert bool(jnp.all(split_of(draw.batch.hash) == 0))


def test_of_several_candidates_a_solvable_one_counts():
    """An untrained model draws noise, most of which has no way to the goal."""
    variables = jax.jit(VAE.init)(jax.random.key(3)).variables
    draw_each = jax.jit(jax.vmap(VAE.draw))
    valid = jax.jit(jax.vmap(SPACE.valid))

    def draw(candidates):
        config = GeneratorConfig(candidates=candidates)
        generator = InterpolatedLevels(VAE, GIVEN, config, variables)
        model = jax.jit(generator.init)(jax.random.key(0))
        propose = jax.jit(generator.propose, static_argnums=2)
        made = jax.device_get(propose(model, jax.random.key(1), 24))
        keys = jax.random.split(jax.random.key(2), 24)
        return jax.jit(jax.vmap(generator.draw))(keys, made), made

    levels, made = draw(3)
    solvable, levels = np.asarray(valid(levels)), jax.device_get(levels)
    for i in range(24):
        keys = jax.random.split(jax.random.split(jax.random.key(2), 24)[i], 3)
        own = draw_each(keys, jax.tree.map(lambda x, i=i: x[i], made))
        own, fits = jax.device_get((own, valid(own)))
        assert solvable[i] == fits.any()
        expected = jax.tree.map(lambda x: x[int(fits.argmax())], own)
        got = jax.tree.map(lambda x, i=i: x[i], levels)
        jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert 0 < solvable.mean() < 1
    once = np.asarray(valid(draw(1)[0]))
    assert once.mean() < solvable.mean()
    with pytest.raises(UserError, match="candidates is 0"):
        GeneratorConfig(candidates=0)


def test_pairs_start_and_end_at_given_levels(trained):
    """With no noise the ends of a pair decode as the given levels do."""
    generator = InterpolatedLevels(VAE, GIVEN, GeneratorConfig(), trained)
    model = jax.jit(generator.init)(jax.random.key(0))
    model = model.replace(std=jnp.zeros_like(model.std))
    propose = jax.jit(generator.propose, static_argnums=2)
    made = propose(model, jax.random.key(1), 18)
    given = jax.jit(VAE.decode)(model.decoder, model.mean)
    for i in (0, 5, 6, 11, 12, 17):
        gap = jnp.max(jnp.abs(given.goal - made.goal[i, 0]), axis=1)
        assert float(jnp.min(gap)) < 1e-3
    for i in (2, 9):
        gap = jnp.max(jnp.abs(given.goal - made.goal[i, 0]), axis=1)
        assert float(jnp.min(gap)) > 1e-2


def test_training_reports_and_draws(tmp_path):
    experiment = LevelVAEExperiment(Cave(5, 6), VAE, GIVEN)
    states, metrics = jax.jit(lambda key: experiment.train(key, 20))(jax.random.key(0))
    assert float(metrics["loss"][-1]) < float(metrics["loss"][0])
    assert np.all(metrics["finite"] == 1)
    assert np.all(metrics["samples_valid"] <= 1)
    assert np.all(metrics["samples_copied"] <= metrics["samples_near"])
    stacked = jax.tree.map(lambda x: x[None], states)
    files = experiment.draw(stacked, tmp_path, None)
    assert all(path.stat().st_size > 0 for path in files)
    (model,) = experiment.export(stacked, tmp_path)
    assert model.name == "level-vae-0.npz"


def test_a_model_needs_levels():
    for algorithm in ("level-vae", "vae-dred"):
        config = training.make_config(algorithm, "cave", settings={"dataset": ""})
        with pytest.raises(UserError, match=r"give a dataset|choose one with dataset"):
            config.build()


def test_more_pairs_than_levels_are_refused():
    config = training.make_config("level-vae", "cave")
    experiment = config.build()
    few = InterpolatedLevels(experiment.vae, experiment.dataset.thin(11))
    with pytest.raises(UserError, match=r"6 pairs .* number 11: give at least 12"):
        few.propose(None, jax.random.key(0), 36)
