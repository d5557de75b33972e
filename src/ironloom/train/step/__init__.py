"""One optimizer step: gradients, clipping, AdamW, schedule, adapters, and what is measured of it."""
