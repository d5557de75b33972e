"""A run, rank by rank: its steps, what is watched meanwhile, what is written down. What needs no torch imports none."""
