"""`rlgen bench`: what this machine reaches, against the size of each axis."""
