"""The score card: an agent in closed loop, measured by judges that see and hear only what it renders.

    wan-streamer eval CHECKPOINT --dataset runs/world

`examination` runs agents and users; `answers`, `turns`, `lips`, `liveliness`, `endurance` and `fidelity` measure;
`speech_judge` and `sight` are the ears and eyes; `scorecard` and `report` put it on paper. Needs the extra `eval`.
"""
