"""The training loop: steps, validation, the state of a run, and what is reported of it."""
