"""Batches: drawn, augmented, read ahead and split among processes."""
