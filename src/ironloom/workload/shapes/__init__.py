"""What a language model is made of, read from its config, its headers or a table of well-known models."""
