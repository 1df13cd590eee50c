"""Every number among settings has a range, and nothing outside it is taken."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any

import numpy as np
import pytest

from rlgen import cli, registry
from rlgen import config as configs
from rlgen.algos.ued.assembly import CurriculumConfig
from rlgen.collect import EnvOptions, RunOptions
from rlgen.config import RunConfig
from rlgen.errors import UserError
from rlgen.level_tool import LevelsOptions
from rlgen.meta_suite import RuleEvalOptions
from rlgen.model_selection import SelectOptions
from rlgen.ood_meter import OODOptions
from rlgen.ranges import Range, check_ranges, ranges
from rlgen.training import make_config

OPTIONS = (
    cli.EvalOptions, EnvOptions, RunOptions, LevelsOptions, RuleEvalOptions,
    SelectOptions, OODOptions,
)  # fmt: skip


def parts(settings: Any):
    """Settings and those inside of them."""
    yield settings
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from parts(value)


def every_part() -> dict[type, Any]:
    """One of each class of settings that a command can change."""
    whole = [RunConfig(), *(kind() for kind in OPTIONS)]
    for name in registry.names(registry.ALGORITHMS):
        whole.append(registry.load(registry.ALGORITHMS, name).config)
    whole += [
        registry.load(registry.ENVS, name)() for name in registry.names(registry.ENVS)
    ]
    return {type(part): part for settings in whole for part in parts(settings)}


def holds_number(hint: Any) -> bool:
    return hint in (int, float) or any(map(holds_number, typing.get_args(hint)))


PARTS = every_part()
NUMBERS = [
    (kind, field.name)
    for kind in PARTS
    for field in dataclasses.fields(kind)
    if holds_number(typing.get_type_hints(kind)[field.name])
]


def outside(allowed: Range, *, of_ints: bool) -> list[float]:
    """Numbers on the wrong side of each bound."""
    bad = [] if of_ints else [math.nan, math.inf, -math.inf, 1e39, -1e39]
    bad += [b - 1 for b in [allowed.least] if math.isfinite(b)]
    bad += [b + 1 for b in [allowed.most] if math.isfinite(b)]
    return bad + [b for b in (allowed.above, allowed.below) if math.isfinite(b)]


def test_there_are_numbers():
    assert len(NUMBERS) > 300


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_every_number_has_a_range_and_is_held_to_it(kind, name):
    allowed, settings = ranges(kind)[name], PARTS[kind]
    value = getattr(settings, name)
    of_ints = not isinstance(value, float)
    bad = outside(allowed, of_ints=of_ints)
    assert len(bad) >= 2
    for number in bad:
        number = (number,) if isinstance(value, tuple) else number
        with pytest.raises(UserError) as refusal:
            dataclasses.replace(settings, **{name: number})
        sentence = str(refusal.value)
        assert sentence.startswith(f"{name} is "), sentence
        assert f"choose {allowed}" in sentence
        assert (
            sentence.count(".") == sum(str(n).count(".") for n in (number, allowed)) + 1
        )


@pytest.mark.parametrize(
    ("allowed", "inside", "beyond", "words", "signs"),
    [
        (Range(least=0, most=1), (0, 1), (-1e-9, 1.01), "0 to 1", "0<=N<=1"),
        (
            Range(above=0, below=1), (1e-9, 0.99), (0.0, 1.0),
            "more than 0 and less than 1", "0<N<1",
        ),
        (
            Range(above=0, most=1), (1e-9, 1), (0.0, 1.1),
            "more than 0 and at most 1", "0<N<=1",
        ),
        (
            Range(least=1, most=2**31 - 1), (1, 2**31 - 1), (0, 2**31),
            "at least 1", "1<=N",
        ),
        (Range(), (-3e38, 0, 3e38), (1e39, -1e39, 10**400), "any number", "N"),
    ],
)  # fmt: skip
def test_bounds(allowed, inside, beyond, words, signs):
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in (*beyond, math.nan, math.inf))
    assert (str(allowed), allowed.around("N")) == (words, signs)
    # Also where a bound "goes without saying" the sentence says it.
    assert str(2**31 - 1) in Range(least=1, most=2**31 - 1).refusal("n", 2**31)


BAD = [
    ("dr", "lr", "-1"), ("dr", "discount", "1.5"), ("dr", "gae_lambda", "7"),
    ("dr", "clip", "-0.2"), ("dr", "lr", "nan"), ("plr", "temperature", "inf"),
    ("dr", "seed", str(2**32)), ("dr", "max_walls", "-1"),
]  # fmt: skip


@pytest.mark.parametrize(("algorithm", "name", "text"), BAD)
def test_whatever_way_it_comes(algorithm, name, text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = float(text) if text in ("nan", "inf") or "." in text else int(text)
    (tmp_path / "my.yaml").write_text(f"{name}: {'.' * text.isalpha()}{text}\n")
    (tmp_path / "sweep.yaml").write_text(
        "method: grid\nparameters:\n"
        f"  algorithm: {{value: {algorithm}}}\n"
        f"  {name}: {{values: [{'.' * text.isalpha()}{text}]}}\n"
    )
    with pytest.raises(UserError, match=f"{name} is "):
        make_config(algorithm, settings={name: value})
    flag = f"--{name.replace('_', '-')}={text}"
    for command in (
        ["train", algorithm, flag],
        ["train", algorithm, "--config", "my.yaml"],
        ["sweep", "sweep.yaml", "--dry-run"],
    ):
        assert cli.main(command) == 2, command
        assert f"{name} is " in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_seeds_that_go_over_the_end_are_refused():
    """Seed 2**32 has the bits of seed 0, also as the last of several."""
    RunConfig(seed=2**32 - 2, seeds=2)
    with pytest.raises(UserError, match="The last of 3 seeds would be 4294967296"):
        RunConfig(seed=2**32 - 2, seeds=3)


def test_settings_of_somebody_elses_class_are_finite_at_least():
    @dataclasses.dataclass(frozen=True)
    class Theirs:
        weight: float = 1.0

    config = make_config("dr")
    check_ranges(config)
    algo = CurriculumConfig(curriculum=Theirs())
    config = dataclasses.replace(config, algo=algo)
    check_ranges(config)
    theirs = dataclasses.replace(algo, curriculum=Theirs(1.0))
    object.__setattr__(theirs.curriculum, "weight", math.nan)
    with pytest.raises(UserError, match="weight is nan"):
        check_ranges(dataclasses.replace(config, algo=theirs))


def test_numbers_of_numpy_and_paths_are_taken(tmp_path):
    """As notebooks have them: `for lr in np.logspace(-4, -3, 3)`."""
    typed = {
        "lr": np.logspace(-4, -3, 3)[0], "seed": np.arange(4)[3], "out": tmp_path,
        "discount": np.float32(0.5), "see_through_walls": np.bool_(False),
    }  # fmt: skip
    plain = {"lr": 1e-4, "seed": 3, "out": str(tmp_path), "discount": 0.5}
    ours = make_config("dr", settings=typed)
    theirs = make_config("dr", settings=plain | {"see_through_walls": False})
    assert ours == theirs
    assert configs.to_yaml(ours) == configs.to_yaml(theirs)
    for name in typed:
        assert type(configs.flatten(ours)[name]) is type(configs.flatten(theirs)[name])


def test_help_shows_ranges(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "iql", "--help"])
    shown = capsys.readouterr().out
    for text in ("--discount 0<=FLOAT<1", "--seeds 1<=INT", "--expectile 0<FLOAT<1"):
        assert text in shown
