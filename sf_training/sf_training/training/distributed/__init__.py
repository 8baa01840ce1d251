"""One run on several processes: accelerate, FSDP2, and the memory that a run needs."""
