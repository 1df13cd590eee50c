"""Pictures of levels, of learning and of an agent at play: PNG and GIF files.

Nothing here knows an environment: pictures of levels come from `env.render`. Figures
are matplotlib objects of their own, so no display and no global state is needed, and
each file is written whole or not at all. Colours are safe for the colour-blind, and
what a colour says is also said by a length or a word.
"""

from rlgen.evaluation.pictures._style import looks
from rlgen.evaluation.pictures.agreement import agreement_panels
from rlgen.evaluation.pictures.comparison import cost_curves, interval_panels
from rlgen.evaluation.pictures.curves import DEFAULT_GROUPS, learning_curves
from rlgen.evaluation.pictures.film import agent_gif
from rlgen.evaluation.pictures.growth import growth_curves
from rlgen.evaluation.pictures.levels import (
    curriculum_picture,
    level_grid,
    level_images,
)
from rlgen.evaluation.pictures.maps import (
    Line,
    heat_maps,
    line_panels,
    over_rows,
    over_runs,
)
from rlgen.evaluation.pictures.strips import score_strips

__all__ = [
    "DEFAULT_GROUPS",
    "Line",
    "agent_gif",
    "agreement_panels",
    "cost_curves",
    "curriculum_picture",
    "growth_curves",
    "heat_maps",
    "interval_panels",
    "learning_curves",
    "level_grid",
    "level_images",
    "line_panels",
    "looks",
    "over_rows",
    "over_runs",
    "score_strips",
]
