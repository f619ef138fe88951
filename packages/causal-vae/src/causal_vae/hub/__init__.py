"""Loading that refuses what is damaged or misspelt, and model cards."""
