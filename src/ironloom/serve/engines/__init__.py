"""The engines, and the choice among them. A new engine is one file and one line in ENGINES."""
