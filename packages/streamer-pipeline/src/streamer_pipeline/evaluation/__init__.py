"""The score card: an agent in closed loop, measured by judges that see and hear only what it renders.

    wan-streamer eval CHECKPOINT --dataset DYADS

`evaluator` runs agents and users; `dialogue`, `speech`, `lips`, `liveliness`, `endurance` and `fidelity` measure what
two tracks and words allow; `row_set` says how a data set adds rows of its own; `recognisers` and `face` are ears and
eyes; `scorecard`, `report` and `plots` put it on paper. `full_duplex_bench` is a benchmark of the field. All
of it needs the extra `eval`.
"""
