"""Reports on runs with known numbers; the page is looked at in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import run_dirs

from rlgen import cli, runs
from rlgen.comparison import Compared
from rlgen.evaluation import statistics
from rlgen.report import figures, tables

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
RNG = np.random.default_rng(0)
DIFFICULTY = RNG.random(30)


def scores(shift, n_seeds=5):
    noise = 0.05 * RNG.standard_normal((n_seeds, 30))
    heldout = DIFFICULTY + shift + noise
    return {"heldout": heldout, "train": heldout[:, :12] + 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    data = {"good_one": scores(0.3), "weak": scores(0.0)}
    for name, levels in data.items():
        run_dirs.write(folder, name, levels, algorithm=name, pictures=True)
    run_dirs.write(folder, "lr", scores(0.1, 3), algorithm="weak", lr=0.5, seed=4)
    (folder / "broken").mkdir()
    (folder / "broken" / "config.yaml").write_text("algorithm: x\nseeds: 1\n")
    return folder


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    assert cli.main(["report", str(folder), "--out", str(out), "--title", "A <b>"]) == 0
    return out


def test_tables_hold_what_the_runs_say(folder, report):
    table = pd.read_csv(report / "tables" / "scores.csv")
    row = table[(table["name"] == "good_one") & (table["level_set"] == "heldout")].iloc[
        0
    ]
    run = runs.read(folder / "good_one")
    part = run.episodes[run.episodes["level_set"] == "heldout"]
    wide = part.pivot_table(index="seed", columns="level", values="return").to_numpy()
    expected = statistics.stratified_bootstrap(wide, np.mean, resample_tasks=True)
    got = row[["return", "return_low", "return_high"]].to_numpy(float)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert (row["seeds"], row["levels"]) == (5, 30)
    solved = part["success"].mean()
    assert row["solved"] == pytest.approx(solved, abs=1e-5)
    gaps = pd.read_csv(report / "tables" / "gaps.csv").set_index("name")
    train = run.episodes[run.episodes["level_set"] == "train"]["return"].mean()
    assert gaps.loc["good_one", "gap"] == pytest.approx(
        train - part["return"].mean(), abs=1e-5
    )
    costs = pd.read_csv(report / "tables" / "costs.csv").set_index("name")
    assert costs.loc["good_one", "env_steps_per_seed"] == 1000
    assert costs.loc["good_one", "training_s_per_seed"] == pytest.approx(12.0)


def test_all_pairs_are_compared_on_the_same_levels(report):
    """Who has fewer than five seeds gets no verdict, however large the difference."""
    table = pd.read_csv(report / "tables" / "differences.csv")
    seeds = pd.read_csv(report / "tables" / "runs.csv").set_index("name")["seeds"]
    assert sorted(seeds) == [3, 5, 5] and len(table) == 3
    said = dict.fromkeys(["more", "less", "fewer than 5 seeds"], 0)
    for row in table.to_dict("records"):
        said[row["verdict"]] += 1
        is_more = row["difference"] > 0
        fewest = min(seeds[row["first"]], seeds[row["other"]])
        expected = (
            ("more" if is_more else "less") if fewest == 5 else "fewer than 5 seeds"
        )
        assert row["verdict"] == expected
        assert (row["difference_low"] > 0) == is_more
        assert (row["probability_of_improvement"] > 0.5) == is_more
    assert said["fewer than 5 seeds"] == 2


def test_the_worst_tenth_is_found_by_other_episodes_than_report_it(tmp_path):
    """Levels that are all alike have no bad tail, however few the episodes."""
    path = run_dirs.write(
        tmp_path, "alike", {"heldout": np.zeros((5, 400))}, n_episodes=4
    )
    rng = np.random.default_rng(0)
    for file in path.glob("eval/*.parquet"):
        table = pd.read_parquet(file)
        table["success"] = rng.random(len(table)) < 0.976
        table.to_parquet(file)
    (run,) = runs.finished(tmp_path)
    found = tables.tails({"alike": Compared("alike", [run])}).iloc[0]
    assert found["worst_tenth"] == pytest.approx(0.976, abs=0.015)
    assert found["worst_tenth_low"] < 0.976 < found["worst_tenth_high"] + 0.005


def logged_at(path, updates):
    """Rewrites what a run logged of training: walls 3 + seed + update at `updates`."""
    metrics = pd.read_parquet(path / "metrics.parquet")
    seeds = sorted(set(metrics["seed"]))
    rows = [
        {"kind": "train", "seed": s, "update": u, "level_n_walls": 3.0 + s + u}
        for s in seeds
        for u in updates
    ]
    pd.DataFrame(rows).to_parquet(path / "metrics.parquet")


def test_curricula_are_drawn_over_all_members_by_update(tmp_path, monkeypatch):
    """Two runs of one method that log at other updates, and a longer method."""
    one = run_dirs.write(tmp_path, "one", scores(0.0, 2), algorithm="plr")
    other = run_dirs.write(tmp_path, "other", scores(0.0, 3), algorithm="plr", seed=2)
    longer = run_dirs.write(tmp_path, "longer", scores(0.0, 2), algorithm="accel")
    logged_at(one, [10, 30])
    logged_at(other, [10, 20, 30])
    logged_at(longer, range(5, 100, 5))
    drawn = {}
    monkeypatch.setattr(
        figures.pictures,
        "line_panels",
        lambda panels, path, title, **options: drawn.update(panels, **options),
    )
    groups = runs.group(runs.finished(tmp_path))
    figures._curriculum(groups, tmp_path / "c.png", list(groups), "")
    (lines,) = (panel for name, panel in drawn.items() if "walls" in name)
    assert list(lines) == ["accel", "plr"]
    assert len(lines["accel"].x) == 19
    # Seeds 0 to 4, all of them; seeds 0 and 1 have 13 + seed between 10 and 30.
    assert lines["plr"].x.tolist() == [10, 20, 30]
    np.testing.assert_allclose(lines["plr"].point, [15, 25, 35])
    np.testing.assert_allclose(lines["plr"].low, [13, 23, 33])
    np.testing.assert_allclose(lines["plr"].high, [17, 27, 37])
    assert drawn["note"] == "mean and range over seeds"
    metrics = pd.read_parquet(other / "metrics.parquet")
    metrics.loc[metrics["seed"] == 4, "level_n_walls"] = np.nan
    metrics.to_parquet(other / "metrics.parquet")
    groups = runs.group(runs.finished(tmp_path))
    figures._curriculum(groups, tmp_path / "c.png", list(groups), "")
    assert drawn["note"].endswith("walls of train levels: 4 of 5 seeds of plr")


def test_a_method_has_one_colour_in_all_figures(folder, tmp_path, monkeypatch):
    """Whichever of them show it: every figure is told of all names."""
    said = []
    for name in ("line_panels", "interval_panels", "cost_curves"):
        monkeypatch.setattr(
            figures.pictures, name, lambda *args, **options: said.append(options)
        )
    groups = runs.group(runs.find([folder])[0])
    compared, made = tables.of_all(groups)
    figures.draw(groups, compared, made, tmp_path)
    assert len(said) == 6
    assert all(options["among"] == list(groups) for options in said)


def test_latex_is_escaped_and_ruled(report):
    text = (report / "tables" / "scores.tex").read_text()
    assert r"good\_one" in text and r"\toprule" in text
    assert "good_one" not in text.replace(r"good\_one", "")
    for name in ("returns", "solved", "curves", "profiles", "gaps", "curriculum"):
        pdf = (report / "figures" / f"{name}.pdf").read_bytes()
        assert pdf.startswith(b"%PDF") and b"/Type3" not in pdf


def test_cells_are_readable():
    table = pd.DataFrame(
        {"name": ["a_b"], "x": [0.12345], "x_low": [0.1], "x_high": [0.2], "n": [12345]}
    )
    (row,) = tables.with_intervals(table).to_dict("records")
    assert row == {"name": "a_b", "x": "0.123 (0.100 to 0.200)", "n": "12,345"}
    table["x_low"] = np.nan
    assert tables.with_intervals(table)["x"].tolist() == ["0.123"]


def test_the_page_is_one_file_and_names_what_it_leaves_out(report):
    html = (report / "index.html").read_text()
    sources = re.findall(r'src="([^"]{0,30})', html)
    assert len(sources) == 6 + 4 and all(s.startswith("data:image/") for s in sources)
    assert not re.search(r"https?://", html)
    assert "A &lt;b&gt;" in html and "A <b>" not in html
    assert "broken is not finished" in html


def test_nothing_to_report_is_said_in_one_sentence(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "r")]) == 2
    assert "None of these is a finished run" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


# Asks the page, shown at a width, how it came out.
_WRAPPER = """<!doctype html><meta charset="utf-8"><body><iframe id="f" width="{width}"
 height="900" style="border:0"></iframe><pre id="out"></pre><script>
const page = {page};
f.onload = () => {{
  const d = f.contentDocument, e = d.documentElement;
  const wide = [...d.querySelectorAll("body *")].filter(x =>
    !x.closest(".table") && x.getBoundingClientRect().right > {width} + 0.5);
  const images = [...d.images];
  out.textContent = JSON.stringify({{
    width: e.clientWidth, scroll: e.scrollWidth, images: images.length,
    broken: images.filter(x => !x.complete || x.naturalWidth === 0).length,
    wide: wide.map(x => x.tagName), title: d.title}});
}};
f.srcdoc = page;
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium: .ci/run installs one")
@pytest.mark.parametrize("width", [1280, 390])
def test_figures_load_and_nothing_overflows_in_a_browser(report, tmp_path, width):
    html = json.dumps((report / "index.html").read_text()).replace("</", "<\\/")
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(_WRAPPER.format(width=width, page=html))
    assert BROWSER
    dom = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1400,1000",
            "--virtual-time-budget=10000",
            "--dump-dom",
            wrapper.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    found = re.search(r'<pre id="out">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[-500:]
    said = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">"))
    assert said["width"] == width and said["title"] == "A <b>"
    assert said["scroll"] <= width and said["wide"] == []
    assert said["images"] == 10 and said["broken"] == 0
