"""How a module is laid over ranks, what of its activations is kept, and how its blocks are compiled."""
