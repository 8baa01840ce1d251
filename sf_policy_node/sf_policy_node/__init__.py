"""The run time of the suite: observe, predict, move."""
