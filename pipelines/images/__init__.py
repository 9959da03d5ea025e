"""What bytes are, from bytes to pixels, and the pool of processes that does it."""
