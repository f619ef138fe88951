"""Full-Duplex-Bench (v1.0 and v1.5): an agent against recorded users, measured as its authors describe it.

    wan-streamer eval CHECKPOINT --benchmark full-duplex-bench FOLDER

`layout` reads and writes its folders, `metrics` measures one sample, `rows` makes scores of many, `command` runs it.
"""
