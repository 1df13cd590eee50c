"""Environment design: curricula over levels, and the experiment that trains on them."""
