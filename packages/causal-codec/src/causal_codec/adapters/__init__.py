"""Public encoders behind the streaming contract: their own weights, our states."""
