"""Training of the streamer (extra `train`): duplex, then distillation.

Import from the modules: `modules` holds stages 1 and 2, `distillation` stage 3.
"""
