"""What tests of the split pipeline start in another process, so it lives in a module that the other can import."""

import random
import time

import torch
import torch.distributed as dist
from streamer_pipeline import DistributedChannel, Performer, SplitSession, perform
from tiny_parts import open_session, random_units, tiny_pipeline


class Delayed:
    """A channel whose end is slow at random: up to `longest_ms` before everything it does."""

    def __init__(self, channel, seed, longest_ms=3.0):
        self.channel, self.random, self.longest_ms = channel, random.Random(seed), longest_ms

    def send(self, message):
        self._dawdle()
        self.channel.send(message)

    def receive(self):
        self._dawdle()
        return self.channel.receive()

    def close(self, reason=""):
        self.channel.close(reason)

    def _dawdle(self):
        if self.random.random() < 0.5:
            time.sleep(self.random.random() * self.longest_ms / 1000)


def perform_delayed(streamer, scheduler, channel, seed):
    perform(Performer(streamer, scheduler), Delayed(channel, seed), num_threads=1)


class FaultyPerformer(Performer):
    """Gives up at its third unit."""

    def solve(self, noise, state, *args):
        if int(state["unit"][0]) == 2:
            raise ArithmeticError("the solver diverged")
        return super().solve(noise, state, *args)


def talk_over_gloo(rank, folder, fields, num_units):
    """One rank of two; the thinker's saves what the agent did."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    pipeline, channel = tiny_pipeline(**fields), Delayed(DistributedChannel(1 - rank), seed=rank)
    if rank == 1:
        perform(pipeline.performer, channel)
    else:
        with SplitSession(open_session(pipeline, seed=3, temperature=1.0), channel) as session:
            units = list(session.run(random_units(num_units)))
        torch.save([(unit.audio, unit.video, unit.text, unit.state) for unit in units], f"{folder}/units")
    dist.destroy_process_group()
