"""Thinker and performer apart: byte for byte the stream of one process, whoever is slow; nothing is left behind.

SOAK=1 runs the law over 2,000 units instead of 60.
"""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from split_parts import Delayed, FaultyPerformer, perform_delayed, talk_over_gloo
from streamer_pipeline import (
    ChannelClosed,
    MessageLayout,
    ProcessChannel,
    RecordingReader,
    RecordingWriter,
    SplitSession,
    ThreadChannel,
    message_nbytes,
    perform,
    split_over_processes,
    split_over_threads,
)
from tiny_parts import SIZE, open_session, random_units, tiny_pipeline

ROOT = Path(__file__).parents[2]
NUM_UNITS = 2000 if os.environ.get("SOAK") else 60
FULL = {"context_window": None, "response_window": None}


def open_tiny(pipeline):
    return open_session(pipeline, seed=3, temperature=1.0, capacity_units=16)


@pytest.fixture(scope="module", params=[0, 1], ids=["d=0", "d=1"])
def conversation(request):
    """A pipeline, its user, and what it answers in one process, in turn."""
    pipeline = tiny_pipeline(commit_delay=request.param)
    units = random_units(NUM_UNITS)
    session = open_tiny(pipeline)
    return pipeline, units, [session.step(unit) for unit in units]


def assert_same_bytes(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.text, ours.state, ours.index) == (theirs.text, theirs.state, theirs.index)
        assert torch.equal(ours.audio, theirs.audio), f"unit {ours.index}"
        assert torch.equal(ours.video, theirs.video), f"unit {ours.index}"


def over_delayed_threads(pipeline):
    here, there = ThreadChannel.pair()
    worker = threading.Thread(target=perform, args=(pipeline.performer, Delayed(there, seed=1)))
    worker.start()
    return SplitSession(open_tiny(pipeline), Delayed(here, seed=2), on_close=worker.join)


def over_delayed_processes(pipeline):
    session = open_tiny(pipeline)
    here, there = ProcessChannel.pair(message_nbytes(session))
    worker = mp.get_context("spawn").Process(
        target=perform_delayed, args=(pipeline.streamer, pipeline.scheduler, there, 1), daemon=True
    )
    worker.start()
    there.given_away()
    return SplitSession(session, Delayed(here, seed=2), on_close=worker.join)


@pytest.mark.parametrize("split", [over_delayed_threads, over_delayed_processes])
def test_the_split_stream_is_that_of_one_process_byte_for_byte(conversation, split):
    pipeline, units, expected = conversation
    with split(pipeline) as session:
        assert_same_bytes(list(session.run(units)), expected)


def test_the_split_stream_is_the_same_over_torch_distributed(tmp_path, conversation):
    pipeline, _, expected = conversation
    fields = {"commit_delay": pipeline.streamer.config.commit_delay}
    mp.spawn(talk_over_gloo, args=(str(tmp_path), fields, NUM_UNITS), nprocs=2)
    found = torch.load(tmp_path / "units")
    assert len(found) == len(expected)
    for (audio, video, text, state), unit in zip(found, expected, strict=True):
        assert torch.equal(audio, unit.audio) and torch.equal(video, unit.video)
        assert (text, state) == (unit.text, unit.state)


def test_steps_and_pauses_between_units_change_nothing(conversation):
    """`step` one by one, then a stream with gaps in it, as live input has."""
    pipeline, units, expected = conversation
    with split_over_threads(open_tiny(pipeline)) as session:
        found = [session.step(unit) for unit in units[:10]]
        gaps = [None, *units[10:15], None, None, *units[15:20], None]
        found += list(session.run(gaps))
    assert_same_bytes(found, expected[:20])


@pytest.mark.parametrize("delay", [0, 1])
def test_a_full_history_grows_on_both_sides_alike(delay):
    pipeline, units = tiny_pipeline(commit_delay=delay, **FULL), random_units(20)
    whole = open_session(pipeline, capacity_units=4)
    with split_over_threads(open_session(pipeline, capacity_units=4)) as session:
        assert_same_bytes(list(session.run(units)), [whole.step(unit) for unit in units])


def test_an_empty_prompt_sends_nothing_first(conversation):
    pipeline, units, _ = conversation
    whole = open_session(pipeline, prompt="")
    with split_over_threads(open_session(pipeline, prompt="")) as session:
        assert_same_bytes(list(session.run(units[:3])), [whole.step(unit) for unit in units[:3]])


@pytest.mark.parametrize("delay", [0, 1])
def test_thinker_and_performer_overlap_as_in_the_report(delay):
    """While the performer solves y_k: with d = 1 the thinker takes in u_{k+1}, with d = 0 it encodes u_{k+1}."""
    pipeline = tiny_pipeline(commit_delay=delay)
    with split_over_threads(open_tiny(pipeline)) as session:
        list(session.run(random_units(8)))
        ledger = session.ledger
    spans = [{span.name: span for span in unit.spans} for unit in ledger.units]
    for before, now, after in zip(spans, spans[1:], spans[2:], strict=False):
        ahead = "send" if delay else "encode"  # is over before the thinker waits for y_k
        assert after[ahead].start_ms < now["receive"].start_ms
        assert before["decode"].end_ms <= now["decode"].start_ms and before["commit"].end_ms <= now["solve"].start_ms
        if not delay:  # in turn where the mask says so
            assert now["receive"].end_ms <= after["context"].start_ms
    for unit in ledger.units:
        durations = unit.durations
        assert durations["total"] == pytest.approx(sum(ms for name, ms in durations.items() if name != "total"))


def test_a_performer_that_breaks_tells_the_thinker(conversation):
    pipeline, units, _ = conversation
    here, there = ThreadChannel.pair()
    faulty = FaultyPerformer(pipeline.streamer, pipeline.scheduler)

    def work():
        with pytest.raises(ArithmeticError):
            perform(faulty, there)

    worker = threading.Thread(target=work)
    worker.start()
    with SplitSession(open_tiny(pipeline), here, on_close=worker.join) as session:
        answers = session.run(units[:10])
        assert [next(answers).index, next(answers).index] == [0, 1]
        with pytest.raises(ChannelClosed, match="the solver diverged"):
            list(answers)


def test_a_process_that_dies_is_noticed_and_leaving_leaves_nothing(conversation):
    pipeline, units, _ = conversation
    session = split_over_processes(open_tiny(pipeline))
    session.step(units[0])
    (worker,) = [child for child in active_children() if child.name == "performer"]
    worker.kill()
    worker.join()
    with pytest.raises(ChannelClosed, match="ended"):
        for unit in units:
            session.step(unit)
    session.close()
    assert not [child for child in active_children() if child.name == "performer"]
    with split_over_threads(open_tiny(pipeline)) as threaded:
        threaded.step(units[0])
    assert not any(thread.name == "performer" for thread in threading.enumerate())


def test_what_cannot_be_split_is_refused(conversation):
    pipeline, units, _ = conversation
    session = open_tiny(pipeline)
    session.step(units[0])
    with pytest.raises(ValueError, match="before its first unit"):
        SplitSession(session, ThreadChannel.pair()[0])
    with split_over_threads(open_tiny(pipeline)) as split:
        wrong = type(units[0])(units[0].audio, torch.zeros(3, 4, 32, 32))
        with pytest.raises(ValueError, match="opened for video of shape"):
            split.step(wrong)
        split.submit(units[0])
        with pytest.raises(RuntimeError, match="in flight"):
            split.step(units[1])
        assert split.collect().index == 0


def test_parcels_bring_back_every_bit_and_refuse_what_was_not_agreed():
    tensors = {"a": torch.randn(3, dtype=torch.float64), "b": torch.randn(2, 5), "c": torch.randn(0, 4)}
    parcel = MessageLayout({name: (tuple(t.shape), t.dtype) for name, t in tensors.items()})
    message = parcel.pack(tensors)
    assert message.dtype == torch.uint8 and message.numel() == parcel.nbytes == 3 * 8 + 10 * 4
    for name, tensor in parcel.unpack(message).items():
        assert torch.equal(tensor, tensors[name])
    with pytest.raises(ValueError, match="by agreement"):
        parcel.pack(tensors | {"b": torch.zeros(2, 4)})
    with pytest.raises(ValueError, match="one checkpoint"):
        parcel.unpack(message[:-1])


@pytest.mark.parametrize("kind", [ThreadChannel.pair, lambda: ProcessChannel.pair(100)])
def test_channels_keep_order_and_close(kind):
    here, there = kind()
    for length in (5, 7):
        here.send(torch.full((length,), length, dtype=torch.uint8))
    assert [there.receive().tolist() for _ in range(2)] == [[5] * 5, [7] * 7]
    there.send(torch.ones(3, dtype=torch.uint8))
    there.close("enough")
    there.close()
    assert here.receive().tolist() == [1, 1, 1]
    with pytest.raises(ChannelClosed, match="enough"):
        here.receive()
    with pytest.raises(ChannelClosed):
        here.send(torch.ones(3, dtype=torch.uint8))


def test_a_process_channel_says_how_long_its_messages_may_be():
    here, _ = ProcessChannel.pair(4)
    with pytest.raises(ValueError, match="messages of 4 bytes"):
        here.send(torch.zeros(5, dtype=torch.uint8))


def test_torchrun_talks_to_a_recording(tmp_path):
    """The example, started as its docstring says, writes the film that one process would have written."""
    pipeline = tiny_pipeline(commit_delay=1)
    pipeline.save_pretrained(tmp_path / "checkpoint")
    with RecordingWriter(tmp_path / "user.mp4", *SIZE) as writer:
        for unit in random_units(6):
            writer.write(unit)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = {"height": SIZE[0], "width": SIZE[1], "output": tmp_path / "out", "checkpoint": tmp_path / "checkpoint"}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    script = ROOT / "examples" / "scale" / "split_over_torchrun.py"
    subprocess.run([*torchrun, str(script), str(tmp_path / "user.mp4"), *arguments], check=True, capture_output=True)

    session = open_session(pipeline)
    expected = [session.step(unit) for unit in RecordingReader(tmp_path / "user.mp4", *SIZE)]
    still = replace(
        expected[0], video=expected[0].video[:, :1].expand(-1, 4, -1, -1), audio=torch.zeros_like(expected[0].audio)
    )
    with RecordingWriter(tmp_path / "expected.mp4", *still.video.shape[2:]) as writer:
        for unit in [still, still, *expected][:6]:  # response_delay is 2
            writer.write(unit)
    agent, ours = (
        RecordingReader(tmp_path / name, *still.video.shape[2:]) for name in ("out/agent.mp4", "expected.mp4")
    )
    assert agent.num_units == 6
    for shown, unit in zip(agent, ours, strict=True):
        assert torch.equal(shown.video, unit.video) and torch.equal(shown.audio, unit.audio)
    book = json.loads((tmp_path / "out" / "latency.json").read_text())
    assert [unit["index"] for unit in book["units"]] == list(range(6))
    assert {"send", "solve", "commit", "receive", "decode", "model_side"} <= book["percentiles_ms"].keys()
