"""What `wan-streamer inspect` says of a checkpoint is what its sessions do."""

import re

from kinds import live
from streamer_pipeline.checks.inspection import describe_latency
from tiny_parts import open_session, random_units, talking_pipeline, tiny_pipeline


def test_passes_per_unit_are_those_that_a_session_makes():
    """The fewest where language comes out as drafted; the most where every slot is revised by itself."""
    pipeline = talking_pipeline()
    rows = {name: value for name, value in describe_latency(pipeline)[2]}
    fewest = int(rows["passes per unit"].split()[0])
    most = int(re.search(r"up to (\d+)", rows["where it says something new"])[1])
    others = pipeline.config.num_inference_steps + 1
    made = [
        others + unit.language_passes
        for each in (pipeline, tiny_pipeline(hears_words=False))
        for unit in live(open_session(each), random_units(40))
    ]
    assert min(made) == fewest and max(made) == most
