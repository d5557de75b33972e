"""Rows into sequences: read, tokenised once, packed, shuffled and blended, with a place that is one number."""
