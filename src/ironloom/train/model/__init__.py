"""One compact decoder for the Llama family, made for training: fused projections, a chunked loss, and the weights of
Hugging Face's checkpoints mapped both ways."""
