"""Dyads: conversations of two sides, as training and evaluation read them."""
