"""Pictures are written, whole, with what they should show."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rlgen import distributions
from rlgen.envs.maze import Maze, parse_maze
from rlgen.evaluation import pictures
from rlgen.evaluation.pictures import curves, film, growth, levels, returns
from rlgen.levels import stack
from rlgen.networks import ActorCritic, NetworkConfig

FORWARD = 2


@dataclasses.dataclass
class Always:
    """A network that always takes one action."""

    action: int
    action_space = Maze().action_space

    def policy(self, raw):
        return distributions.distribution(self.action_space, raw)

    def initial_carry(self, batch_size):
        return None

    def step(self, params, carry, obs, reset):
        logits = jnp.where(jnp.arange(3) == self.action, 1e3, 0.0)
        n = reset.shape[0]
        return carry, jnp.broadcast_to(logits, (n, 3)), jnp.zeros(n)


@pytest.fixture(autouse=True)
def texts_are_no_formulas(monkeypatch):
    """Every figure of this file is made where a dollar is a dollar."""
    make = Figure.__init__

    def checked(self, *args, **kwargs):
        assert not matplotlib.rcParams["text.parse_math"]
        make(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "__init__", checked)
    yield
    assert matplotlib.rcParams["text.parse_math"]  # as it was for others


def corridor(n_steps):
    """The goal lies `n_steps` straight ahead."""
    row = list(">" + "." * 7)
    row[n_steps] = "G"
    return parse_maze("".join(row) + "\n" + "." * 8)


@pytest.fixture
def env():
    return Maze(height=2, width=8, max_steps=40)


def read(path):
    with Image.open(path) as image:
        image.load()
        return np.asarray(image.convert("RGB"))


def fake_images(n, height=30, width=30):
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (n, height, width, 3), np.uint8)


def fake_frame(n_seeds=3, n_rows=20):
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(n_seeds):
        for update in range(1, n_rows + 1):
            row = {
                "kind": "train",
                "seed": seed,
                "update": update,
                "env_steps": update * 1000,
                "wall_s": 0.1 * update,
                "train_solve_rate": rng.uniform(),
                f"solve_rate_{['new', 'replay'][update % 2]}": rng.uniform(),
                "loss": rng.normal(),
                "entropy": rng.uniform(),
                "buffer_fill": update / n_rows,
                "level_n_walls": 20.0 + update,
                "acceptance": np.nan,
            }
            rows.append(row)
        last = {"kind": "eval", "seed": seed, "update": n_rows}
        rows.append(last | {"env_steps": n_rows * 1000, "eval_named_solve_rate": 0.5})
    return pd.DataFrame(rows)


def test_level_images_are_those_of_the_environment(env):
    levels = stack([corridor(n) for n in (1, 3, 7)])
    images = pictures.level_images(env, levels, jax.random.key(0))
    assert images.dtype == np.uint8 and len(images) == 3
    for i, n in enumerate((1, 3, 7)):
        level = jax.tree.map(jnp.asarray, corridor(n))
        state, _ = env.reset(jax.random.key(0), level)
        np.testing.assert_array_equal(images[i], env.render(level, state))


def test_level_grid_shows_every_picture(tmp_path):
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [90, 90, 0]])
    images = np.broadcast_to(
        colours[:, None, None].astype(np.uint8), (4, 30, 30, 3)
    ).copy()
    path = pictures.level_grid(images, list("abcd"), tmp_path / "a.png", columns=2)
    shown = read(path)
    for colour, (row, col) in zip(colours, np.ndindex(2, 2), strict=True):
        ys, xs = np.nonzero((shown == colour).all(axis=-1))
        assert len(ys) > 200 * 200
        assert (ys.mean() > shown.shape[0] / 2) == bool(row)
        assert (xs.mean() > shown.shape[1] / 2) == bool(col)


def test_level_grid_takes_sizes_values_and_long_captions(tmp_path):
    images = [fake_images(1, *size)[0] for size in ((20, 40), (30, 30), (10, 10))]
    captions = [
        "a caption much too long for such a small picture, isn't it?",
        "b\nc",
        "",
    ]
    path = pictures.level_grid(
        images, captions, tmp_path / "x" / "a.png", "title", values=[0.0, np.nan, 1.0]
    )
    assert path == tmp_path / "x" / "a.png"
    assert read(path).shape[1] > 300


def test_values_change_the_picture(tmp_path):
    images, captions = fake_images(2), ["a", "b"]
    shown = [
        read(pictures.level_grid(images, captions, tmp_path / "a.png", values=values))
        for values in ([0.0, 1.0], [1.0, 0.0])
    ]
    assert shown[0].shape == shown[1].shape
    assert (shown[0] != shown[1]).any()


def test_very_many_pictures_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(levels, "_MAX_PICTURES", 4)
    cut = read(pictures.level_grid(fake_images(9), ["x"] * 9, tmp_path / "a.png"))
    four = fake_images(4)
    title = "Levels (the first 4 of 9)"
    whole = read(pictures.level_grid(four, ["x"] * 4, tmp_path / "a.png", title))
    assert cut.shape == whole.shape


@pytest.mark.parametrize(
    ("n", "captions", "values", "message"),
    [
        (0, [], None, "no pictures"),
        (2, ["a"], None, "2 captions, not 1"),
        (2, ["a", "b"], [0.5], "2 values, not 1"),
    ],
)
def test_level_grid_refuses_what_does_not_fit(tmp_path, n, captions, values, message):
    with pytest.raises(ValueError, match=message):
        pictures.level_grid(fake_images(n), captions, tmp_path / "a.png", values=values)
    assert not list(tmp_path.iterdir())


def test_grids_have_few_holes():
    for n in range(1, 60):
        columns = levels._balanced_columns(n)
        assert columns <= n and -n % columns <= columns // 2, n


def test_curriculum_picture_puts_the_likeliest_first(tmp_path):
    images = np.zeros((3, 30, 30, 3), np.uint8)
    images[1] = [10, 200, 10]
    path = pictures.curriculum_picture(
        images, [0.1, 0.5, 0.2], ["s 0.1", "s 0.5", "s 0.2"], tmp_path / "c.png"
    )
    shown = read(path)
    ys, xs = np.nonzero((shown == [10, 200, 10]).all(axis=-1))
    assert xs.mean() < shown.shape[1] / 2 and ys.mean() < shown.shape[0] / 2


@pytest.mark.parametrize("n_seeds", [1, 5])
def test_learning_curves(tmp_path, n_seeds):
    path = pictures.learning_curves(fake_frame(n_seeds), tmp_path / "c.png")
    shown = read(path)
    assert shown.shape[1] > 1000 and (shown < 250).any()


def test_learning_curves_leave_out_what_is_missing(tmp_path):
    frame = fake_frame()
    full = read(pictures.learning_curves(frame, tmp_path / "a.png"))
    few = frame[["seed", "env_steps", "entropy", "acceptance"]]
    one = read(pictures.learning_curves(few, tmp_path / "b.png"))
    assert one.shape[0] < full.shape[0] and one.shape[1] < full.shape[1]
    for empty in (pd.DataFrame(), frame[["seed", "env_steps", "acceptance"]]):
        pictures.learning_curves(empty, tmp_path / "c.png")
        assert read(tmp_path / "c.png").size


def test_panels_name_their_series():
    frame = fake_frame()
    panels = curves._panels(frame, pictures.DEFAULT_GROUPS)
    assert panels["Held-out solve rate"] == {"named": "eval_named_solve_rate"}
    assert set(panels["Train solve rate by role"]) == {"all", "new", "replay"}
    assert panels["Shares of levels"] == {"filled": "buffer_fill"}
    assert panels["Levels played"] == {"n walls": "level_n_walls"}
    assert "Number of levels" not in panels
    # A star in two places, and a column that an earlier panel has taken.
    panels = curves._panels(frame, {"a": ["*_solve_*"], "b": ["mine=*rate*", "loss"]})
    assert set(panels["a"]) == {"train rate", "eval named rate"}
    assert panels["b"]["loss"] == "loss"


def test_lines_are_means_with_the_range_of_the_seeds():
    frame = pd.DataFrame(
        {
            "seed": [0, 0, 0, 1, 1, 1],
            "env_steps": [10, 20, 30, 10, 20, 30],
            "m": [1.0, np.nan, 3.0, 3.0, 4.0, 5.0],
        }
    )
    [(x, line, low, high)] = curves._over_seeds(frame, "m")
    np.testing.assert_allclose(x, [10, 20, 30])
    np.testing.assert_allclose(line, [2, 3, 4])
    np.testing.assert_allclose(low, [1, 2, 3])
    np.testing.assert_allclose(high, [3, 4, 5])


def test_a_seed_that_ends_early_counts_until_then():
    frame = pd.DataFrame(
        {"seed": [0, 0, 0, 1], "env_steps": [10, 20, 30, 10], "m": [1.0, 2.0, 3.0, 5.0]}
    )
    (x1, line1, *_), (x2, line2, *_) = curves._over_seeds(frame, "m")
    assert (list(x1), list(line1)) == ([10], [3])
    assert (list(x2), list(line2)) == ([20, 30], [2, 3])
    assert curves._seeds_note(frame) == "2 seeds (1 to the end): mean and range"


def test_four_seeds_get_an_interquartile_mean():
    runs = np.array([[0.0], [1.0], [2.0], [100.0]])
    line, low, high = curves._centre_and_band(runs)
    assert line == pytest.approx(1.5)
    assert 0 <= low[0] < 1.5 < high[0] <= 100
    np.testing.assert_allclose(curves._centre_and_band(runs[:3])[0], 1.0)


def frames(path):
    with Image.open(path) as film:
        assert film.format == "GIF"
        durations = []
        for i in range(film.n_frames):
            film.seek(i)
            durations.append(film.info["duration"])
        return durations, film.size, film.info.get("loop")


def test_the_film_ends_when_all_goals_are_reached(tmp_path, env):
    path = pictures.agent_gif(
        env,
        Always(FORWARD),
        None,
        stack([corridor(2), corridor(5)]),
        jax.random.key(0),
        tmp_path / "a.gif",
        labels=["near", "a very long name that does not fit above its picture at all"],
        fps=10,
    )
    durations, size, loop = frames(path)
    # The first state and five steps.
    assert durations == [100] * 5 + [1500]
    assert size[0] > size[1] and loop == 0


def test_a_film_shows_the_agent_on_its_way(tmp_path, env):
    path = pictures.agent_gif(
        env, Always(FORWARD), None, stack([corridor(5)]), jax.random.key(0),
        tmp_path / "a.gif",
    )  # fmt: skip
    columns = []
    with Image.open(path) as film:
        for i in range(film.n_frames):
            film.seek(i)
            shown = np.asarray(film.convert("RGB")).astype(int)
            assert (shown[0, 0] == 255).all()
            is_agent = (shown == [214, 73, 51]).all(axis=-1)
            columns.append(np.nonzero(is_agent)[1].mean())
    assert len(columns) == 6
    np.testing.assert_allclose(np.diff(columns), np.diff(columns)[0], atol=1e-6)
    assert columns[0] < columns[-1]


def test_an_unsolved_film_lasts_until_its_limit(tmp_path, env):
    roll = (env, Always(0), None, stack([corridor(3)]), jax.random.key(0))
    durations, *_ = frames(pictures.agent_gif(*roll, tmp_path / "a.gif", max_steps=7))
    assert len(durations) == 8


def test_long_films_skip_steps(tmp_path, env, monkeypatch):
    monkeypatch.setattr(film, "_MAX_FRAMES", 10)
    roll = (env, Always(0), None, stack([corridor(3)]), jax.random.key(0))
    durations, *_ = frames(pictures.agent_gif(*roll, tmp_path / "a.gif"))
    assert len(durations) == 10


def test_the_film_of_a_network_is_small(tmp_path):
    env = Maze()
    config = NetworkConfig(core="gru", core_size=8)
    network = ActorCritic(env.observation_space, env.action_space, config)
    maze = ["." * 13] * 13
    maze[0], maze[12] = ">" + "." * 12, "." * 12 + "G"
    path = pictures.agent_gif(
        env,
        network,
        jax.jit(network.init)(jax.random.key(0)),
        stack([parse_maze("\n".join(maze))] * 4),
        jax.random.key(1),
        tmp_path / "a.gif",
        max_steps=30,
    )
    _, size, _ = frames(path)
    assert size[0] >= 480 and path.stat().st_size < 200_000


def test_a_film_shows_at_most_four_levels(tmp_path, env):
    levels = stack([corridor(2)] * 5)
    with pytest.raises(ValueError, match="1 to 4 levels, not 5"):
        pictures.agent_gif(
            env, Always(0), None, levels, jax.random.key(0), tmp_path / "a.gif"
        )


def test_strips_have_a_row_for_every_set(tmp_path):
    """Two dots of one score stand side by side at the same place of the log axis."""
    table = pd.DataFrame(
        {"level_set": ["a"] * 40 + ["b"] * 40, "score": [1.0] * 40 + [100.0] * 40}
    )
    path = pictures.score_strips(table, tmp_path / "s.png", "title", "score")
    image = read(path).astype(int)
    # Dots are coloured; axes, lines and words are not.
    rows, columns = np.nonzero(np.ptp(image, axis=2) > 60)
    first = columns < image.shape[1] * 0.5
    assert first.any() and (~first).any()
    assert rows[first].max() < rows[~first].min()  # the first set is above
    one = pictures.score_strips(table[:40], tmp_path / "one.png", "title", "score")
    assert read(one).shape[0] < image.shape[0]


def test_a_failing_save_leaves_no_partial_file(tmp_path, env, monkeypatch):
    def fail(self, file, *args, **kwargs):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    monkeypatch.setattr("PIL.Image.Image.save", fail)
    old = tmp_path / "old.png"
    old.write_bytes(b"whole")
    with pytest.raises(OSError, match="disk full"):
        pictures.level_grid(fake_images(1), ["a"], old)
    with pytest.raises(OSError, match="disk full"):
        pictures.agent_gif(
            env, Always(FORWARD), None, stack([corridor(2)]), jax.random.key(0),
            tmp_path / "a.gif",
        )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["old.png"]
    assert old.read_bytes() == b"whole"


def test_no_global_figures_are_left(tmp_path):
    pictures.learning_curves(fake_frame(1), tmp_path / "c.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


BAD = r"$\bad{$"  # what matplotlib would read as a formula, and fail
_ROW = {"algorithm": BAD, "point": 0.5, "low": 0.4, "high": 0.6}
_X = np.arange(1.0, 4.0)
_LABELLED = {
    "level_grid": lambda path: pictures.level_grid(fake_images(1), [BAD], path, BAD),
    "interval_panels": lambda path: pictures.interval_panels(
        {BAD: pd.DataFrame([_ROW])}, path, BAD, BAD
    ),
    "heat_maps": lambda path: pictures.heat_maps(
        {BAD: np.eye(3)}, _X, _X, path, BAD, x_label=BAD, y_label=BAD, value_label=BAD
    ),
    "line_panels": lambda path: pictures.line_panels(
        {BAD: {BAD: pictures.over_runs(_X, np.eye(3))}},
        path,
        BAD,
        x_label={BAD: BAD},
        note=BAD,
    ),
    "growth_curves": lambda path: pictures.growth_curves(
        {BAD: (_X, _X, _X)}, path, x_label=BAD, y_label=BAD, title=BAD
    ),
    "agreement_panels": lambda path: pictures.agreement_panels(
        {BAD: _X}, _X, [BAD] * 3, path, target_name=BAD, title=BAD
    ),
    "score_strips": lambda path: pictures.score_strips(
        pd.DataFrame({"level_set": BAD, "score": _X}), path, BAD, BAD
    ),
    "return_panels": lambda path: returns.return_panels(
        _X, [BAD] * 3, np.arange(3), {BAD: 1.0}, path, BAD
    ),
}


@pytest.mark.parametrize("draw", _LABELLED.values(), ids=_LABELLED)
def test_what_looks_like_a_formula_is_drawn_as_text(tmp_path, draw):
    """Labels of levels, names of runs and settings, titles."""
    assert draw(tmp_path / "a.png").stat().st_size > 500


def test_powers_of_ten_are_no_formulas_either(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(growth, "save", lambda figure, path: seen.append(figure))
    sizes = np.array([1e2, 1e4, 1e6])
    pictures.growth_curves(
        {"a": (sizes, sizes, sizes)}, "", x_label="", y_label="", title=""
    )
    seen[0].canvas.draw()
    ticks = [text.get_text() for text in seen[0].axes[0].get_xticklabels()]
    assert any(ticks) and not any("$" in text for text in ticks)
