"""What `changed_lines.py` draws, without running any of it."""

import changed_lines
import pytest
from changed_lines import Change

SOURCE = '''"""Not 1 < 2."""

LIMIT = 3

def bounded(x: int = 4, *, scale: float = 2.0) -> int:
    """Not 1 < 2 either."""
    if x < 0:
        raise ValueError(f"{x + 1} is wrong")
    assert x > 0
    return min(x - 1, (
        scale
    ) * x) + 1e-8
'''


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A module of its own."""
    path = "rlgen/algos/made_up.py"
    (tmp_path / "rlgen" / "algos").mkdir(parents=True)
    (tmp_path / path).write_text(SOURCE)
    monkeypatch.setattr(changed_lines, "ROOT", tmp_path)
    yield path
    # The tree is another again.
    for name in ("changes_of", "_source", "_lines", "_dump", "_imported", "tests_of"):
        getattr(changed_lines, name).cache_clear()


def test_only_what_functions_do_is_changed(made_up):
    changes = filter(changed_lines.is_python, changed_lines.changes_of(made_up))
    found = {(c.line, c.kind, c.before, c.after) for c in changes}
    assert found == {
        (7, "comparison", "<", "<="),
        (7, "condition", "x < 0", "(not (x < 0))"),
        (7, "constant", "0", "1"),
        (10, "reduction", "min", "max"),
        (10, "operator", "-", "+"),
        (10, "operands exchanged", "x - 1", "(1) - (x)"),
        (10, "term left out", "x - 1", "(x)"),
        (10, "term left out", "x - 1", "(1)"),
        (10, "constant", "1", "2"),
        (12, "operator", "*", "/"),
    }


def test_a_change_is_one_piece_of_one_line():
    change = Change("x.py", 2, 3, 4, "operator", "+", "-")
    assert change.made("é + 1\né + b\n") == "é + 1\né - b\n"  # columns are bytes


def test_draws_are_of_every_module_and_the_seeds_own():
    modules = changed_lines.modules()
    assert "rlgen/algos/offline/iql.py" in modules and len(modules) > 40
    for path in modules:
        three = changed_lines.drawn(path, 0, 3)
        assert len({c.line for c in three}) == len(three) > 0, path
        assert changed_lines.tests_of(path), path
    path = modules[0]
    two, three, others = (
        changed_lines.drawn(path, *given) for given in ((0, 2), (0, 3), (1, 3))
    )
    assert three[:2] == two and three != others


def test_tests_that_name_the_function_come_first():
    path = "rlgen/algos/offline/sac.py"
    change = next(c for c in changed_lines.changes_of(path) if "unit = slopes" in c.of)
    file = "tests/algos/offline/test_agents.py"
    assert changed_lines.first_tests_of(change) == [
        f"{file}::test_slopes_are_compared_in_pairs",
        f"{file}::test_edac_differentiates_the_cosines_of_its_critics_slopes",
    ]
