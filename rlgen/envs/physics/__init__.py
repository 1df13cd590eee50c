"""Tasks of brax whose levels are physics: gravity, masses, motors, damping, friction."""
