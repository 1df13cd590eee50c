"""One name has one colour, in every picture that gives colours by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from rlgen import registry
from rlgen.evaluation import pictures
from rlgen.evaluation.pictures import _style, returns

# Neither comes first among those that it is compared with.
NAMES = ("vae-dred", "plr")


def points(names):
    low = np.linspace(0.1, 0.5, len(names))
    return pd.DataFrame(
        {"algorithm": names, "point": low + 0.2, "low": low, "high": low + 0.4}
    )


def intervals(path):
    pictures.interval_panels({"a": points(NAMES), "b": points(NAMES[1:])}, path, "t")


def costs(path):
    table = pd.concat([points(NAMES).assign(steps=x) for x in (1.0, 2.0, 3.0)])
    pictures.cost_curves({"a": table}, {"steps": "steps"}, path, "t")


def lines(path):
    x = np.arange(5.0)
    drawn = {n: pictures.over_runs(x, [x + i, x]) for i, n in enumerate(NAMES)}
    panels = {"a": drawn, "b": {NAMES[1]: drawn[NAMES[1]]}}
    pictures.line_panels(panels, path, "t", x_label={"a": "x", "b": "x"})


def growth(path):
    curves = {n: ([1, 8], [1.0 + i, 2.0 + i], [0.1, 0.1]) for i, n in enumerate(NAMES)}
    pictures.growth_curves(curves, path, x_label="x", y_label="y", title="t")


def agreement(path):
    options = {"target_name": "t", "title": "t"}
    scores = {"plain": np.array([0.0, 0.3, 0.6, 1.0])}
    pictures.agreement_panels(scores, np.arange(4.0), [*NAMES] * 2, path, **options)


def strips(path):
    table = pd.DataFrame({"level_set": [*NAMES] * 9, "score": np.linspace(1, 2, 18)})
    pictures.score_strips(table, path, "t", "score")


def episodes(path):
    levels, policies = np.arange(18) % 3, [*NAMES] * 9
    returns.return_panels(np.linspace(0, 1, 18), policies, levels, {}, path, "t")


def learning(path):
    frame = pd.DataFrame({"seed": 0, "env_steps": np.arange(9.0), "update": range(9)})
    frame = frame.assign(a=np.linspace(0, 1, 9), b=np.linspace(1, 0.2, 9))
    groups = {"t": (f"{NAMES[0]}=a", f"{NAMES[1]}=b")}
    pictures.learning_curves(frame, path, groups)


@pytest.mark.parametrize(
    "draw",
    [intervals, costs, lines, growth, agreement, strips, episodes, learning],
    ids=lambda f: f.__name__,
)
def test_every_picture_gives_a_name_its_own_colour(draw, tmp_path):
    """Whatever comes first, and in whichever panel."""
    draw(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        shown = np.asarray(image.convert("RGB")).reshape(-1, 3)
    seen = set()
    for colour in _style.CYCLE[:7]:  # letters have edges as grey as the eighth
        full = np.multiply(to_rgb(colour), 255)
        for opacity in (1.0, 0.5):  # dots of strips let others shine through
            apart = abs(shown - (opacity * full + (1 - opacity) * 255))
            if (apart < 1.5).all(axis=1).sum() > 20:
                seen.add(colour)
    assert seen == {_style.COLOURS[name] for name in NAMES}


def test_what_is_compared_has_colours_of_its_own():
    known = {name for g in (registry.ALGORITHMS, registry.RULES)
             for name in registry.names(g)}  # fmt: skip
    for names in _style._COMPARED[1:]:
        assert {name.removeprefix("cocoa-") for name in names} <= known
        found = pictures.looks(names)
        assert len({look.colour for look in found.values()}) == len(names)
        for name in names:  # alone and among others
            assert found[name] == pictures.looks([name])[name]


def test_other_names_look_alike_in_all_figures_of_a_comparison():
    every = [f"plr lr={i}" for i in range(30)] + ["dr", "accel", "uniform"]
    found = pictures.looks(every)
    assert len(set(found.values())) == len(every)
    for some in (every[4:7], every[::-3], every[-1:]):
        assert pictures.looks(some, every) == {name: found[name] for name in some}
    # `uniform` has DR's colour where both are not compared, and another one here.
    assert found["dr"].colour == _style.COLOURS["dr"] != found["uniform"].colour


def test_a_line_is_over_all_rows_or_not_at_all():
    table = pd.DataFrame([[1.0, 2.0, np.nan], [3.0, 6.0, 9.0]], columns=[10, 20, 30])
    line = pictures.over_rows(table)
    assert line.x.tolist() == [10, 20]
    assert (line.point.tolist(), line.low.tolist()) == ([2, 4], [1, 2])
    assert np.isnan(pictures.over_runs([1, 2], [5.0, 6.0]).low).all()
