"""The benchmark suite: what it counts, what it leaves out, and that its cases run."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import pytest

from rlgen import training
from rlgen.bench import curricula, environments, measure, peers, plots, suite
from rlgen.bench.measure import Case
from rlgen.errors import UserError


def test_arithmetic_is_that_of_the_products():
    def steps(a, b):
        once = a @ b  # 2 x 3 x 4 x 5

        def step(carry, _):
            return carry @ b.T @ b, None  # twice as many, seven times

        return jax.lax.scan(step, once, length=7)[0]

    a, b = jnp.zeros((3, 4)), jnp.zeros((4, 5))
    jaxpr = jax.make_jaxpr(steps)(a, b).jaxpr
    assert measure.products_gflop(jaxpr) == pytest.approx(120 * 15 / 1e9)


def test_a_program_says_what_it_moves_and_makes():
    made = measure.program(
        lambda a, b: a + b,
        jnp.zeros(1000),
        jnp.zeros(1000),
        items=1000,
        unit="sums",
        repeats=3,
    )
    assert made["moved_bytes"] == 3 * 4000 and made["gflop"] == 0.0
    assert made["seconds_min"] <= made["seconds"] <= made["seconds_max"]
    assert made["per_s"] == pytest.approx(1000 / made["seconds"])


def test_a_carry_goes_from_call_to_call():
    made = measure.program(
        lambda n, one: n + one,
        jnp.zeros(()),
        jnp.ones(()),
        items=1,
        unit="sums",
        repeats=1,
        carries=True,
    )
    assert made["seconds"] > 0


def fake(seconds, repeats):
    del repeats
    if seconds < 0:
        raise UserError("it does not fit.")
    return {
        "seconds": seconds,
        "items": 10,
        "unit": "things",
        "per_s": 10 / seconds,
    } | {
        "compile_s": 0.1,
        "gflop": 4.0,
        "moved_bytes": 10,
    }


def curve(*points, name="a"):
    return [Case("env", name, "n", size, fake, (s,)) for size, s in points]


def test_sizes_that_would_take_too_long_are_left_out():
    records = list(
        suite.Suite(1, 0.0, 5.0).run(
            curve((1, 1.0), (4, 4.0), (8, 1.0), (16, 1.0))
            + curve((2, -1.0), (4, 1.0), name="b")
            + curve((1, 1.0), name="c")
        )
    )
    assert "left_out" not in records[0] and "left_out" not in records[1]
    assert records[2]["left_out"] == "a call would take about 8 s"
    assert records[3]["left_out"] == "n 8 was left out before it"
    assert records[4]["left_out"] == "it does not fit."
    assert records[5]["left_out"] == "n 2 was left out before it"
    assert records[6]["per_s"] == 10.0


def test_no_case_begins_after_the_limit():
    records = list(suite.Suite(1, 1e-9, 5.0).run(curve((1, 1.0))))
    assert records[0]["left_out"].endswith("seconds were over")


def test_the_limit_is_the_slower_of_products_and_memory():
    limits = suite.Limits()
    machine = {"part": "machine", "axis": "", "size": 0}
    limits.add(machine | {"name": "memory", "per_s": 10.0})
    limits.add(machine | {"name": "product float32", "per_s": 2.0})
    limits.add(machine | {"name": "product bfloat16", "per_s": 100.0})
    record = {"part": "env", "seconds": 4.0, "gflop": 4.0, "moved_bytes": 10e9}
    limits.add(record)
    assert record["limit_s"] == 2.0 and record["share_of_limit"] == 0.5
    record = {"part": "env", "seconds": 4.0, "gflop": 0.0, "moved_bytes": 10e9}
    limits.add(record)
    assert record["limit_s"] == 1.0


def test_the_command_writes_json_and_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        suite, "cases", lambda parts, full: curve((1, 1.0), (2, 2.5), (64, 1.0))
    )
    file, figures = tmp_path / "b.json", tmp_path / "figures"
    code = suite.main(
        ["--parts", "env", "--json", str(file), "--figures", str(figures)]
    )
    said = capsys.readouterr().out
    assert code == 0 and "n 2" in said and "left out: a call would take" in said
    written = json.loads(file.read_text())
    assert [record["size"] for record in written["records"]] == [1, 2, 64]
    assert written["commit"] and written["processor"]
    assert (figures / "env-n.png").stat().st_size > 5_000


def test_curves_of_one_point_are_no_picture(tmp_path):
    records = [{"part": "env", "name": "a", "axis": "n", "size": 1, **fake(1.0, 1)}]
    assert plots.draw(records, tmp_path, "here") == []


@pytest.mark.parametrize("name", ["maze", "pointmaze"])
def test_environments_are_stepped(name):
    made = environments.steps(name, {}, 4, 1)
    assert made["items"] == 4 * 256 and made["per_s"] > 0


def test_every_part_has_cases_and_quick_ones_are_some_of_all():
    for part in suite.PARTS:
        quick, full = (suite.cases([part], full) for full in (False, True))
        assert quick and full

        def about(cases):
            return {(c.name, c.axis, c.size) for c in cases}

        assert about(quick) <= about(full), part
    assert suite.cases(["env", "machine"], True)[0].part == "machine"


def test_peers_that_are_missing_or_broken_are_named(monkeypatch):
    def absent(n_envs, repeats):
        raise ImportError("no")

    def broken(n_envs, repeats):
        raise TypeError("another version\nwith details")

    monkeypatch.setitem(peers.PEERS, "absent", absent)
    monkeypatch.setitem(peers.PEERS, "broken", broken)
    assert "not installed" in peers.measured("absent", 2, 1)["left_out"]
    assert peers.measured("broken", 2, 1)["left_out"] == "TypeError: another version"


@pytest.mark.parametrize("name", ["gymnax", "brax"])
def test_peers_that_are_here_are_stepped(name):
    made = peers.measured(name, 2, 1)
    assert made["per_s"] > 0 and made["version"]


@pytest.mark.parametrize(
    ("algorithm", "settings", "share"),
    [
        ("dr", {}, {"new": 1.0}),
        ("robust-plr", {"replay_prob": 0.75}, {"new": 0.25, "replay": 0.75}),
        # What is edited was replayed before.
        (
            "accel",
            {"replay_prob": 0.75},
            {"new": 0.25, "replay": 0.75, "edited": 0.75},
        ),
        (
            "sfl",
            {"scoring_batches": 1, "training_batches": 3},
            {"new": 0.25, "replay": 0.75},
        ),
        ("repaired", {"replay_prob": 0.75}, {"generated": 0.25, "replay": 0.75}),
        ("vae-dred", {}, {"replay": 1.0, "generated": 1.0}),
    ],
)
def test_batches_count_as_often_as_they_occur(algorithm, settings, share):
    config = training.make_config(algorithm, preset="paper", settings=settings)
    found = curricula.share_of_roles(config.algo)
    assert {curricula.ROLE_NAMES[role]: part for role, part in found.items()} == share
