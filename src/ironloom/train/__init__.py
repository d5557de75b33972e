"""Training with FSDP2: a whole run, and the pieces of it that a user's own loop calls."""
