"""Tasks of brax whose levels are gravity, masses, motors, damping and friction."""
