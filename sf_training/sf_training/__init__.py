"""Record, check and convert demonstrations, and train a checkpoint from them."""
