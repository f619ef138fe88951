"""Recordings and subtitles: what people have in files, brought to the clock of the units, and back."""
