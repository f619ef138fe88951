"""Public language models whose weights `StreamerModel` can hold."""
