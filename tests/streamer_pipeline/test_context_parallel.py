"""The context-parallel performer: the stream of one process, from ranks that hold a part of the video and the heads."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from context_parallel_parts import FIELDS, GROUPS, SESSION, history, spoken, talk_over_groups
from streamer_pipeline.runtime.context_parallel import head_shares, unit_nbytes, video_shares
from tiny_parts import SIZE, open_session, random_units, tiny_pipeline

ROOT = Path(__file__).parents[2]
NUM_UNITS = 10  # more than the windows of 6 and 3, so the rings wrap


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """A folder with what groups of four processes did."""
    folder = tmp_path_factory.mktemp("groups")
    mp.spawn(talk_over_groups, args=(str(folder), NUM_UNITS), nprocs=4)
    return folder


@pytest.fixture(params=GROUPS)
def group(request, talks):
    """A conversation with a group: (pipeline, ranks, the thinker's record, bytes sent by each rank)."""
    num_ranks, fields = GROUPS[request.param]
    record, *sent = (
        torch.load(talks / f"{request.param}: {what}")
        for what in ("talk", *(f"bytes of {r}" for r in range(num_ranks)))
    )
    return tiny_pipeline(**FIELDS | fields), num_ranks, record, sent


def test_a_group_answers_as_one_process(group):
    pipeline, _, (found, found_history), _ = group
    session = open_session(pipeline, **SESSION)
    expected = spoken([session.step(unit) for unit in random_units(NUM_UNITS)])
    assert len(found) == NUM_UNITS
    for (audio, video, *language), (expected_audio, expected_video, *expected_language) in zip(
        found, expected, strict=True
    ):
        torch.testing.assert_close(audio, expected_audio, rtol=0, atol=1e-5)
        torch.testing.assert_close(video, expected_video, rtol=0, atol=1e-5)
        assert language == expected_language
    for found_part, part in zip(found_history, history(session), strict=True):
        torch.testing.assert_close(found_part, part, rtol=0, atol=1e-5)


def test_every_byte_between_ranks_is_predicted(group):
    pipeline, num_ranks, _, sent = group
    farewell = {"control": 8 * (num_ranks - 1)}
    for rank, found in enumerate(sent):
        one = unit_nbytes(pipeline.streamer.config, num_ranks, rank, num_steps=2)
        expected = Counter({purpose: NUM_UNITS * count for purpose, count in one.items()})
        expected.update(farewell if rank == 0 else {})
        assert Counter(found) == expected, f"rank {rank}"


def test_more_ranks_send_less_attention_each():
    """What Ulysses is for: a rank's traffic falls as the group grows, once video is most of a unit."""
    config = tiny_pipeline(**FIELDS).streamer.config
    config.video_latent_width = 300
    two, four = (unit_nbytes(config, ranks, rank=1, num_steps=2)["attention"] for ranks in (2, 4))
    assert four < two
    assert sum(video_shares(config, 4)) == config.agent_video_tokens


@pytest.mark.parametrize("fields", [{"num_key_value_heads": 1}, {"num_attention_heads": 6, "num_key_value_heads": 3}])
def test_heads_that_do_not_divide_are_refused(fields):
    with pytest.raises(ValueError, match="do not divide over 2 ranks"):
        head_shares(tiny_pipeline(**FIELDS | fields).streamer.config, num_ranks=2)


def test_torchrun_compares_a_group_with_one_process(tmp_path):
    """The example, started as its docstring says."""
    tiny_pipeline(**FIELDS).save_pretrained(tmp_path / "checkpoint")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    options = {"checkpoint": tmp_path / "checkpoint", "height": SIZE[0], "width": SIZE[1], "units": 3}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    script = ROOT / "examples" / "scale" / "context_parallel.py"
    ran = subprocess.run([*torchrun, str(script), *arguments], check=True, capture_output=True, text=True)
    assert "same words: yes" in ran.stdout
    assert ran.stdout.count("as predicted") == 2
