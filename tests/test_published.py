"""Presets that bear a paper's name have its values, or say why not."""

import dataclasses
import re

import pytest

from rlgen import config as configs
from rlgen import registry
from rlgen.config import RunConfig
from rlgen.training import make_config

ALGORITHMS = {
    name: registry.load(registry.ALGORITHMS, name)
    for name in registry.names(registry.ALGORITHMS)
}
FOLLOWS = [(name, preset) for name, a in ALGORITHMS.items() for preset in a.published]
# How a run is measured and kept, not what it computes.
BOOKKEEPING = {f.name for f in dataclasses.fields(RunConfig)} - {"n_updates"}
BOOKKEEPING |= {"eval_episodes"}


def rows(name, preset):
    source = ALGORITHMS[name].published[preset]
    resolved = configs.flatten(make_config(name, source.env, preset))
    return list(source.rows(resolved))


@pytest.mark.parametrize(("name", "preset"), FOLLOWS)
def test_a_value_is_the_published_one_or_has_a_reason(name, preset):
    source = ALGORITHMS[name].published[preset]
    found = rows(name, preset)
    differ = {row.setting for row in found if row.here != row.published}
    assert differ == set(source.reasons)
    settings = [row.setting for row in found]
    assert len(settings) == len(set(settings)), "a setting has two sources"
    for row in found:  # 1 is not True, nor 0 False
        assert isinstance(row.here, bool) == isinstance(row.published, bool), row
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.repository)
    assert re.fullmatch(r"[0-9a-f]{40}", source.commit)


@pytest.mark.parametrize(("name", "preset"), FOLLOWS)
def test_whatever_a_preset_sets_has_a_source(name, preset):
    entry = ALGORITHMS[name]
    chosen = {*entry.settings, *entry.presets[preset]}
    assert chosen - BOOKKEEPING <= {row.setting for row in rows(name, preset)}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_preset_with_the_papers_name_names_its_source(name):
    entry = ALGORITHMS[name]
    assert "paper" not in entry.presets or "paper" in entry.published
    assert entry.published.keys() <= entry.presets.keys()
