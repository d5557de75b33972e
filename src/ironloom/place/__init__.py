"""Where pods fit: which nodes take them, how many of them, and why the others do not."""
