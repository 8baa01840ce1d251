"""From demonstrations to a checkpoint."""
