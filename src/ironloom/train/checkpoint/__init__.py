"""A run's state on disk: sharded safetensors and JSON, whole or not there; and the model in Hugging Face's form."""
