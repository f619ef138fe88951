"""What tests of the context-parallel performer start in other processes; they import it from here."""

import threading

import torch
import torch.distributed as dist
from streamer_pipeline import SplitSession, ThreadChannel, perform
from streamer_pipeline.runtime.context_parallel import ContextParallelPerformer, GroupChannel, UlyssesExchange
from tiny_parts import open_session, random_units, tiny_pipeline

# Four key-value heads of two query heads each; six video tokens, which four ranks share as 2, 2, 1, 1.
FIELDS = {"num_attention_heads": 8, "num_key_value_heads": 4, "video_patch_height": 1, "audio_patch_size": 2}
FULL_HISTORY = {"context_window": None, "response_window": None, "commit_delay": 1}
GROUPS = {"2 ranks": (2, {}), "4 ranks": (4, {}), "2 ranks, full history": (2, FULL_HISTORY)}
SESSION = {"seed": 3, "temperature": 1.0, "capacity_units": 4}


def spoken(units):
    return [(unit.audio, unit.video, unit.text, unit.state) for unit in units]


def history(session):
    """K/V as the thinker has it: its own, and what all ranks of the performer returned."""
    kv = session.state["thinker"]["kv"]
    return kv["keys"], kv["values"]


def talk_over_groups(rank, folder, num_units):
    """One process of four, in every group that it belongs to."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=4)
    for name, (num_ranks, fields) in GROUPS.items():
        group = dist.new_group(range(num_ranks))
        if rank < num_ranks:
            talk(group, f"{folder}/{name}", tiny_pipeline(**FIELDS | fields), num_units)
    dist.destroy_process_group()


def talk(group, path, pipeline, num_units):
    """One rank of the group. The first is the thinker's process too; every rank saves what it sent."""
    exchange = UlyssesExchange(pipeline.streamer.config, group)
    performer = ContextParallelPerformer(pipeline.streamer, pipeline.scheduler, exchange)
    if exchange.rank:
        perform(performer, GroupChannel(exchange))
    else:
        here, there = ThreadChannel.pair()
        worker = threading.Thread(target=perform, args=(performer, GroupChannel(exchange, channel=there)))
        worker.start()
        session = open_session(pipeline, **SESSION)
        with SplitSession(session, here, on_close=worker.join) as split:
            units = spoken(split.run(random_units(num_units)))
        torch.save((units, history(split)), f"{path}: talk")
    torch.save(dict(exchange.num_bytes), f"{path}: bytes of {exchange.rank}")
