"""Bags into frames, frames into batches."""
