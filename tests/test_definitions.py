"""What bears an algorithm's name is that algorithm."""

import pytest

from rlgen import config as configs
from rlgen import registry
from rlgen.errors import UserError
from rlgen.ranges import Range
from rlgen.training import make_config

ALGORITHMS = {
    name: registry.load(registry.ALGORITHMS, name)
    for name in registry.names(registry.ALGORITHMS)
}
#: Neither a setting nor another turns them into something that has a name of its own.
FREE = {
    "bc",  # of a share of the episodes, too: percent-bc is a setting of it
    "sfl", "paired", "level-vae", "iql", "rvs", "decision-transformer", "reset-free",
}  # fmt: skip


def another(own):
    """A value that is not in a definition."""
    if isinstance(own, Range):
        return 1 if own.above == 1 else 0.0 if own.above == 0 else own.above
    if isinstance(own, bool):
        return not own
    if isinstance(own, float):
        return 0.5
    others = {"uniform": "rank", "dataset": "all", "all": "dataset", "second": "first"}
    others |= {"lpg": "lpo", "lpo": "lpg", "noise": "values", "values": "noise"}
    return others[own]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_preset_is_what_it_is_called(name):
    entry = ALGORITHMS[name]
    assert bool(entry.definition) != (name in FREE)
    for preset in ["", *entry.presets]:
        config = make_config(name, preset=preset)
        assert entry.contradiction(configs.flatten(config)) == ""


@pytest.mark.parametrize(
    ("name", "setting"),
    [(name, s) for name, entry in ALGORITHMS.items() for s in entry.definition],
)
def test_what_contradicts_a_definition_is_refused(name, setting):
    """Level replay under the name of DR stood in directories and tables."""
    value = another(ALGORITHMS[name].definition[setting])
    # Some values are refused for what they are, before anyone asks what they make.
    with pytest.raises(UserError):
        make_config(name, settings={setting: value})
