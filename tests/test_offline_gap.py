"""The offline gap benchmark: what is chosen, by what, and what is drawn."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from rlgen.algos.offline.agent import AgentConfig
from rlgen.algos.offline.assembly import OfflineConfig
from rlgen.algos.offline.iql import IQLConfig
from rlgen.algos.offline.td3_bc import TD3BCConfig
from rlgen.errors import UserError
from rlgen.sweep import schema

ROOT = Path(__file__).parents[1]
SWEEPS = ROOT / "sweeps" / "papers"


@pytest.fixture
def script(tmp_path, monkeypatch):
    path = ROOT / "analysis" / "offline_gap.py"
    spec = importlib.util.spec_from_file_location("offline_gap", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    monkeypatch.setitem(__import__("sys").modules, "offline_gap", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "OUT", tmp_path / "out")
    return module


class FakeRun:
    """A run whose scores are given by set, level and seed."""

    def __init__(self, learner, config, score, n_levels=4):
        self.learner, self.config, self.n_levels = learner, config, n_levels
        self.store = SimpleNamespace(path="run", read_run=lambda: {"wall_s": 1.0})
        self.score = score

    def episodes(self):
        rows = [
            {
                "update": update,
                "seed": seed,
                "level_set": name,
                "level": level,
                "score": self.score(name, seed, update),
            }
            for update in (0, 4)
            for seed in range(2)
            for name in ("train", "heldout", "extrapolated")
            for level in range(3)
        ]
        return pd.DataFrame(rows)


def settings(split="validation", agent=None):
    algo = OfflineConfig(agent=agent or AgentConfig(), steps_per_update=10)
    return SimpleNamespace(
        algo=algo,
        levels_config=SimpleNamespace(eval_split=split),
        run=SimpleNamespace(n_updates=4),
    )


def test_the_setting_that_is_best_on_validation_levels_is_chosen(
    script, tmp_path, monkeypatch
):
    tune = tmp_path / "tune"
    tune.mkdir()
    spec = {
        "program": "rlgen",
        "method": "grid",
        "parameters": {
            "algorithm": {"value": "iql"},
            "inverse_temperature": {"values": [1.0, 3.0, 10.0]},
            "data": {"value": "datasets/gap/mixed-64-v0"},
            "eval_split": {"value": "validation"},
        },
    }
    (tune / "iql.yaml").write_text(yaml.safe_dump(spec))
    monkeypatch.setattr(script, "SWEEPS", tmp_path)
    # On train and extrapolated levels another is best: neither may count.
    good = {1.0: 0.2, 3.0: 0.9, 10.0: 0.4}

    def runs(folder):
        for value, score in good.items():
            yield FakeRun(
                "iql",
                settings(agent=IQLConfig(inverse_temperature=value)),
                lambda name, seed, update, score=score: (
                    score if name == "heldout" and update else 1 - score
                ),
            )

    monkeypatch.setattr(script, "runs", runs)
    script.choose("anywhere", budget=40)
    (cell, *others) = schema.combinations(schema.read(tmp_path / "final" / "iql.yaml"))
    assert cell["inverse_temperature"] == 3.0
    assert cell["eval_split"] == "test"
    assert len(others) + 1 == len(script.N_LEVELS)
    table = pd.read_csv(tmp_path / "out" / "choice.csv")
    assert table.set_index("value")["chosen"].to_dict() == {
        1.0: False,
        3.0: True,
        10.0: False,
    }
    assert table["validation_score"].tolist() == pytest.approx([0.2, 0.9, 0.4])
    assert (tmp_path / "out" / "budget.png").stat().st_size > 10_000


def test_test_levels_choose_nothing(script, monkeypatch):
    run = FakeRun("bc", settings("test"), lambda *_: 0.0)
    monkeypatch.setattr(script, "runs", lambda folder: [run])
    with pytest.raises(UserError, match="not evaluated on validation"):
        script.choose("anywhere")


def test_the_table_and_the_figures(script, tmp_path, monkeypatch):
    value = {"train": 0.9, "heldout": 0.5, "extrapolated": 0.3}

    def runs(folder):
        for learner in ("bc", "iql"):
            for n in (1, 1024):
                yield FakeRun(
                    learner,
                    settings("test"),
                    lambda name, seed, update: value[name] + 0.02 * seed - 0.01,
                    n,
                )

    monkeypatch.setattr(script, "runs", runs)
    script.figure("anywhere")
    out = tmp_path / "out"
    table = pd.read_csv(out / "scores.csv")
    means = table.groupby("level_set")["score"].unique()
    assert {name: list(x) for name, x in means.items()} == {
        name: [pytest.approx(v)] for name, v in value.items()
    }
    assert (table["low"] < table["score"]).all()
    assert (table["gradient_steps"] == 40).all()
    # Scores are alike in the data of one level and of many, of one learner and another.
    claims = pd.read_csv(out / "claims.csv")
    assert set(claims["minus"]) == {"1 level", "bc"}
    assert len(claims) == 2 * (2 + 2) and claims["point"].abs().max() < 1e-9
    assert (claims["low"] < 0).all() and (claims["high"] > 0).all()
    for name in ("gap.png", "curves-1.png", "curves-1024.png"):
        assert (out / name).stat().st_size > 10_000


def learner(path):
    (cell, *_) = schema.combinations(schema.read(path))
    return ("cocoa-" if cell.get("cocoa") else "") + cell["algorithm"]


def test_every_learner_has_as_many_settings_to_choose_from(script):
    files = sorted((SWEEPS / "offline-gap" / "tune").glob("*.yaml"))
    assert {"bc", "td3-bc", "iql", "cql", "mopo"} < {file.stem for file in files}
    for file in files:
        assert len(schema.combinations(schema.read(file))) == 3
        assert learner(file) == file.stem
        assert len(script.varied(file)[1]) == 3
        for cell in schema.combinations(schema.read(file)):
            assert cell["eval_split"] == "validation"


def test_what_was_chosen_runs_on_test_levels_alone(script):
    files = sorted((SWEEPS / "offline-gap" / "final").glob("*.yaml"))
    tuned = sorted((SWEEPS / "offline-gap" / "tune").glob("*.yaml"))
    assert [file.name for file in files] == [file.name for file in tuned]
    for file, tune in zip(files, tuned, strict=True):
        name, values = script.varied(tune)
        for cell in schema.combinations(schema.read(file)):
            assert cell[name] in values and cell["eval_split"] == "test"
        sizes = [
            int(cell["data"].split("-")[1])
            for cell in schema.combinations(schema.read(file))
        ]
        assert sizes == list(script.N_LEVELS)


def test_settings_are_found_wherever_they_are(script):
    flat = script.flatten(settings(agent=TD3BCConfig(q_weight=2.5)).algo)
    assert flat["q_weight"] == 2.5
    assert flat["steps_per_update"] == 10
