"""A conversation against the wall clock, and one spread over threads, processes and ranks."""
