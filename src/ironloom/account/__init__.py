"""The record of what ran, for whom, how long, on what."""
