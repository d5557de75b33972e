"""Builds the gateway's container image without a container engine and without root; see docs/decisions/0027."""
