"""Python files as syntax trees: what a script calls and with what, read and never run."""
