"""Files of settings: what they say is what flags say, or refused in one sentence."""

from __future__ import annotations

import pytest

from rlgen import cli
from rlgen import config as configs
from rlgen.errors import UserError


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        (b"lr: 1e-5", {"lr": 1e-5}),
        (b"lr: 1E+2", {"lr": 100.0}),
        (b"lr: .5e-3", {"lr": 5e-4}),
        (b"lr: &a 0.001\nentropy_coef: *a", {"lr": 1e-3, "entropy_coef": 1e-3}),
        (b'{"lr": 0.001}', {"lr": 1e-3}),
        (b"lr: 1", {"lr": 1.0}),
        (b"\xef\xbb\xbflr: 0.5", {"lr": 0.5}),
        ("lr: 0.5".encode("utf-16"), {"lr": 0.5}),
        (b"n_updates: 1_000", {"n_updates": 1000}),
        (b"wandb: 'off'", {"wandb": "off"}),
        (b"wandb_project: '1e5'", {"wandb_project": "1e5"}),
        (b"", {}),
    ],
)
def test_a_file_says_what_flags_say(tmp_path, content, settings):
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    config = cli.train_config(["dr", "--config", str(path)])
    flags = [f"--{name.replace('_', '-')}={x}" for name, x in settings.items()]
    assert config == cli.train_config(["dr", *flags])
    found = configs.flatten(config)
    assert {name: found[name] for name in settings} == settings
    # And what a run stores is read as it was.
    path.write_text(configs.to_yaml(config))
    assert cli.train_config(["--config", str(path)]) == config


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"lr: 1\nlr: 2", "lr stands there twice"),
        (b"# caf\xe9\nlr: 1", "is not valid YAML"),
        (b"lr: 0,001", "must be of type float"),
        (b"lr: 1:30.5", "1:30.5 is another number"),
        (b"n_updates: 1:30", "1:30 is another number"),
        (b"seed: 010", "010 is another number"),
        (b"seed: 0o17", "must be of type int"),
        (b"seed: 1e3", "must be of type int"),
        (b"lr:", "lr .* is null: write a value"),
        (b"view_size:", "view_size .* is null"),
        (b"wandb: off", r"wandb .* is False, .* in quotes"),
        (b"out: 2026-11-29", "out .* in quotes"),
        (b"wandb_project: 2026", "wandb_project .* in quotes"),
        (b"ppo:\n  lr: 1", "Unknown setting ppo"),
        (b"1: 2", "must hold"),
        (b"- a", "must hold"),
        (b"lr: {a: 1}", "must be of type float"),
        (b"algorithm: accel", "says algorithm accel, but dr was named"),
        (b"env: cave", "says env cave, but maze was named"),
        (b"preset: paper", "says preset paper, but quick was named"),
        (b"preset: 1", "preset .* is 1: name one"),
        (b"algorithm:", "algorithm .* is None: name one"),
    ],
)
def test_what_a_file_cannot_say(tmp_path, content, sentence):
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    words = ["dr", "--env", "maze", "--preset", "quick", "--config", str(path)]
    with pytest.raises(UserError, match=sentence) as caught:
        cli.train_config(words)
    assert "\n" not in str(caught.value)


def test_a_file_may_name_algorithm_environment_and_preset(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("algorithm: accel\nenv: cave\npreset: quick\nlr: 0.5\n")
    config = cli.train_config(["--config", str(path)])
    assert config == cli.train_config(
        ["accel", "--env", "cave", "--preset", "quick", "--lr", "0.5"]
    )
    assert cli.train_config(["accel", "--config", str(path)]) == config


@pytest.mark.parametrize("values", [["gear", 1], [None], [["gear"]], None])
def test_lists_are_of_texts(values):
    with pytest.raises(UserError, match="vary in a file is"):
        configs.override(
            cli.train_config(["agent", "--env", "reacher"]), {"vary": values}, "a file"
        )
