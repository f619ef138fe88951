"""A conversation over a line that loses, delays and reorders datagrams, and is cut for a while."""

import asyncio
import statistics

import pytest

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")

from live_server import client, live_server, unit_from, until
from lossy_line import LossyLine, Sent
from streamer_pipeline import FRAME_RATE

pytestmark = pytest.mark.alone
OPUS, VP8 = 96, 97  # as aiortc numbers them; what is sent again has another number
SOUND_PACKET = 0.02  # seconds
CLOCK_RATES = {OPUS: 48_000, VP8: 90_000}  # of RTP's clocks


def skews(sent: list[Sent]) -> list[float]:
    """For every packet of a picture: how many seconds of the agent's clock it is ahead of the end of the sound sent.

    Both streams begin with unit 0, so the first timestamp of each stream is moment 0 of that clock.
    """
    origins: dict[int, int] = {}
    found, sound = [], None
    for each in (each for each in sent if each.payload_type in CLOCK_RATES):
        origin = origins.setdefault(each.payload_type, each.timestamp)
        moment = ((each.timestamp - origin) % 2**32) / CLOCK_RATES[each.payload_type]
        if each.payload_type == OPUS:
            sound = moment + SOUND_PACKET
        elif sound is not None:
            found.append(moment - sound)
    return found


def test_sound_and_picture_leave_together_and_the_server_goes_on_after_a_bad_line():
    async def talk():
        async with live_server() as (server, url), client(url) as caller:
            line = LossyLine(caller)
            (conversation,) = server.conversations.values()
            assert conversation.line.tracks._num_units == 0  # the line sees both streams begin
            await unit_from(caller, 10)
            line.loss, line.jitter = 0.1, 0.08
            await unit_from(caller, 30)
            line.loss = 1.0
            await asyncio.sleep(1.5)
            line.loss = line.jitter = 0.0
            num_sent = len(line.sent)
            index = (await unit_from(caller, 0))["index"]
            await unit_from(caller, index + 10)
            assert {OPUS, VP8} <= {each.payload_type for each in line.sent[num_sent:]}
            assert server.num_sessions == 1
        await until(lambda: server.num_sessions == 0)
        return line

    line = asyncio.run(talk())
    assert line.num_lost > 50
    found = skews(line.sent)
    quarter = len(found) // 4
    for part in (found[:quarter], found[quarter:-quarter], found[-quarter:]):
        assert abs(statistics.median(part)) < 1 / FRAME_RATE
