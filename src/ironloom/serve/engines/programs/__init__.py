"""Programs that run as child processes: the engines' servers and the converters. Heavy imports are allowed here."""
