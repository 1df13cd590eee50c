"""What the tests of offline learning share."""

import pytest
from algos_offline import pushed
from probes import Push

from rlgen import datasets


@pytest.fixture(scope="session")
def push_dataset(tmp_path_factory):
    """The folder of a dataset of `Push`."""
    episodes, levels = pushed()
    return datasets.save(
        tmp_path_factory.mktemp("data") / "push" / "homing-v0",
        episodes,
        name="push/homing-v0",
        observation_space=Push().observation_space,
        action_space=Push().action_space,
        level_set=levels,
        random_return=0.0,
        expert_return=10.0,
    )
