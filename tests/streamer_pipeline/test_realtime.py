"""Live conversations on a virtual clock: bounded queues, sound and picture together. Nothing sleeps."""

import threading
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from streamer_pipeline import (
    FRAMES_PER_UNIT,
    SAMPLES_PER_UNIT,
    AgentUnit,
    RealTimeSession,
    SessionOptions,
    UserUnit,
    split_over_threads,
)
from streamer_pipeline.runtime import intake, playout
from tiny_parts import open_session, random_units, tiny_pipeline

H, W = 4, 6


class VirtualClock:
    """Time that passes only while somebody waits for it."""

    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return self.seconds

    def wait(self, changed, seconds):
        if seconds is None or not self._may_pass(changed):
            changed.wait(0.001)
        else:
            self.seconds += seconds

    def _may_pass(self, changed):
        return True


class PatientClock(VirtualClock):
    """Time that stands still while the worker has something to do, so that nothing is ever late."""

    live = None

    def _may_pass(self, changed):
        now = self.live.statistics
        return not (now.waiting_units or now.computing_units) or now.ready_units > 0


class Gate:
    """A session whose answers come when the test lets them: unit i of the user, back as the agent's."""

    def __init__(self, speaks=True):
        self.options = SessionOptions("", 0, 1, 0.0, H, W)
        self.open = threading.Semaphore(0)
        self.seen = []
        self.level = 0.5 if speaks else 0.0

    def step(self, unit: UserUnit) -> AgentUnit:
        self.open.acquire()
        self.seen.append(unit)
        index = len(self.seen) - 1
        audio = torch.full((1, SAMPLES_PER_UNIT), self.level)
        return AgentUnit(
            audio, torch.full((3, FRAMES_PER_UNIT, H, W), index / 1000), "", "speak", index, {"total": 1.0}
        )


def sound(num_units=1, level=0.1):
    return torch.full((1, num_units * SAMPLES_PER_UNIT), level)


def frames(num_frames=FRAMES_PER_UNIT, level=0.0):
    return torch.full((3, num_frames, H, W), level)


def agent_unit(index=0, level=0.5, text=""):
    return AgentUnit(
        torch.full((1, SAMPLES_PER_UNIT), level),
        torch.full((3, 4, H, W), index / 100),
        text,
        "speak",
        index,
        {"total": 1},
    )


def taken(live_intake):
    units = []
    while (unit := live_intake.take()) is not None:
        units.append(unit)
    return units


# ---- intake: what the user sends ----


def test_ragged_pushes_give_the_units_of_the_stream():
    generator = torch.Generator().manual_seed(0)
    audio = torch.rand(1, 6 * SAMPLES_PER_UNIT, generator=generator)
    video = torch.rand(3, 24, H, W, generator=generator)
    box = intake.LiveIntake(H, W, 10)
    for step in range(24):  # 40 ms at a time: a frame, and the sound of a frame in three pieces
        for piece in audio[:, step * 960 : (step + 1) * 960].split(400, dim=1):
            box.push_audio(piece)
        box.push_video(video[:, step : step + 1])
    units = taken(box)
    assert torch.equal(torch.cat([unit.audio for unit in units], 1), audio)
    assert torch.equal(torch.cat([unit.video for unit in units], 1), video)
    assert (box.num_dropped_units, box.num_dropped_frames, box.num_repeated_frames) == (0, 0, 0)


def test_without_a_camera_the_picture_is_black_and_nothing_waits():
    box = intake.LiveIntake(H, W, 10)
    for _ in range(5 * 8):
        box.push_audio(sound()[:, : SAMPLES_PER_UNIT // 8])
    units = taken(box)
    assert len(units) == 5
    assert all(torch.equal(unit.video, frames(level=-1.0)) for unit in units)


def test_a_camera_that_stops_leaves_its_last_frame_and_can_come_back():
    box = intake.LiveIntake(H, W, 50)
    for step in range(40):
        box.push_audio(sound()[:, :960])
        if step < 10 or step >= 30:
            box.push_video(frames(1, level=step / 100))
    shown = torch.cat([unit.video for unit in taken(box)], 1)[0, :, 0, 0]
    assert torch.equal(shown[:10], torch.arange(10) / 100)
    assert (shown[12:28] == torch.tensor(0.09)).all()
    # sound and picture are together again: never more than a unit apart
    for step in range(34, len(shown)):
        assert abs(round(100 * shown[step].item()) - step) <= FRAMES_PER_UNIT


def test_without_a_microphone_there_is_silence():
    box = intake.LiveIntake(H, W, 50)
    for step in range(40):
        box.push_video(frames(1, level=step / 100))
    units = taken(box)
    assert len(units) >= 8 and not any(unit.audio.any() for unit in units)
    assert torch.equal(torch.cat([unit.video for unit in units], 1)[0, :, 0, 0], torch.arange(4 * len(units)) / 100)


def test_a_camera_that_is_too_fast_or_too_slow_never_drifts_from_the_sound():
    for frames_per_unit in (3, 5):
        box, pushed = intake.LiveIntake(H, W, 10), 0
        for unit in range(100):
            box.push_audio(sound())
            for _ in range(frames_per_unit):
                box.push_video(frames(1, level=unit / 100))
                pushed += 1
            for formed in taken(box):
                assert abs(formed.video[0, -1, 0, 0].item() - unit / 100) <= 0.021  # two units
        assert box.num_dropped_frames + box.num_repeated_frames > 50


def test_too_much_input_drops_the_oldest_units_and_no_words():
    box = intake.LiveIntake(H, W, 3)
    for index in range(10):
        if index in (2, 4, 8):
            box.push_text(f"word{index}")
        box.push_audio(sound(level=index / 100))
        box.push_video(frames())
    units = taken(box)
    assert [round(unit.audio[0, 0].item() * 100) for unit in units] == [7, 8, 9]
    assert box.num_dropped_units == 7
    assert [unit.text for unit in units] == ["word2 word4", "word8", None]


# ---- play-out: what the agent plays ----


def test_a_filler_holds_the_picture_and_the_sound_does_not_click():
    out = playout.Playout(3)
    generator = torch.Generator().manual_seed(0)
    wave = 0.5 * torch.sin(torch.arange(3 * SAMPLES_PER_UNIT) * 0.05)[None]
    video = torch.rand(3, 4, H, W, generator=generator)
    pieces = wave.split(SAMPLES_PER_UNIT, 1)
    units = [AgentUnit(piece, video, "word", "speak", i, heard="hello") for i, piece in enumerate(pieces)]
    played = []
    for unit in (units[0], None, None, units[1], units[2]):
        if unit:
            out.add(unit)
        played.append(out.tick())
    assert torch.equal(played[1].video, video[:, -1:].expand(-1, 4, -1, -1))
    assert played[1].text == played[1].heard == ""
    heard = torch.cat([unit.audio for unit in played], 1)
    assert heard.diff().abs().max() < 0.03  # the wave's own steepest step is 0.025
    assert not played[2].audio.any()
    assert torch.equal(played[0].audio, units[0].audio) and torch.equal(played[4].audio, units[2].audio)
    assert out.num_fillers == 2


def test_sheds_what_is_silent_and_never_speech_or_words():
    out = playout.Playout(4)
    for unit in (agent_unit(0, 0.0), agent_unit(1, 0.0, "hm"), agent_unit(2, 0.5), agent_unit(3, 0.0)):
        out.add(unit)
    assert [out.tick().index for _ in range(3)] == [1, 2, 3]
    assert out.num_shed == 1 and out.num_fillers == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_delay_is_bounded_and_comes_back_down_when_the_agent_is_silent(seed):
    generator = torch.Generator().manual_seed(seed)
    out, bound, made = playout.Playout(3), 3, 0
    out.add(agent_unit(0))
    for _ in range(300):
        out.tick()
        for _ in range(int(torch.randint(0, 4, (), generator=generator))):
            if not out.is_full:
                made += 1
                out.add(agent_unit(made, level=float(torch.randint(0, 2, (), generator=generator))))
        assert len(out) <= bound
    while not out.is_full:
        out.add(agent_unit(made))
    for _ in range(bound + 1):  # one answer per tick, and a silence as long as the queue
        made += 1
        if not out.is_full:
            out.add(agent_unit(made, level=0.0))
        out.tick()
    assert len(out) <= 1


# ---- both, with a worker ----


@pytest.mark.parametrize("split", [nullcontext, split_over_threads], ids=["whole", "split"])
def test_a_live_session_says_what_the_session_says(split):
    pipeline, clock, units = tiny_pipeline(), PatientClock(), random_units(8)
    session = open_session(pipeline)
    expected = [session.step(unit) for unit in units]
    with split(open_session(pipeline)) as session, RealTimeSession(session, 8, 100, clock=clock) as live:
        clock.live, played = live, []
        for unit in units:
            if unit.text:
                live.push_text(unit.text)
            for piece in unit.audio.split(1000, dim=1):
                live.push_audio(piece)
            live.push_video(unit.video)
            played.append(live.next_unit())
        statistics = live.statistics
    for ours, theirs in zip(played, expected, strict=True):
        assert ours.index == theirs.index
        assert torch.equal(ours.audio, theirs.audio) and torch.equal(ours.video, theirs.video)
    assert (statistics.units, statistics.played, statistics.fillers, statistics.dropped_units) == (8, 8, 0, 0)


def test_one_unit_leaves_every_160_ms_though_the_model_is_slow():
    clock, session = VirtualClock(), Gate()
    with RealTimeSession(session, clock=clock, jitter_buffer_ms=0) as live:
        live.push_audio(sound())
        live.push_video(frames())
        session.open.release()
        played, times = [live.next_unit()], [clock.now()]
        for _ in range(9):
            live.push_audio(sound())
            live.push_video(frames())
            played.append(live.next_unit())
            times.append(clock.now())
        statistics = live.statistics
        session.open.release(20)
    assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx([0.16] * 9)
    assert [unit.index for unit in played] == [0] * 10
    assert (statistics.fillers, statistics.late, statistics.units) == (9, 9, 1)
    assert statistics.waiting_units == 3 and statistics.dropped_units == 9 - 3 - statistics.computing_units


def test_silence_of_the_user_is_not_the_models_fault():
    clock, session = VirtualClock(), Gate()
    with RealTimeSession(session, clock=clock) as live:
        live.push_audio(sound())
        live.push_video(frames())
        session.open.release()
        for _ in range(5):
            live.next_unit()
        assert (live.statistics.fillers, live.statistics.late) == (4, 0)


def test_pushing_and_playing_at_any_rate_keeps_every_queue_bounded():
    """No answer is played twice or out of order, whatever the speeds; what is not played is counted."""
    clock, session = VirtualClock(), Gate()
    with RealTimeSession(session, max_waiting_units=2, max_ready_units=3, clock=clock) as live:
        played = []
        session.open.release(10_000)

        def push():
            for _ in range(400):
                live.push_audio(sound())
                live.push_video(frames())

        pusher = threading.Thread(target=push)
        pusher.start()
        for _ in range(200):
            played.append(live.next_unit())
            now = live.statistics
            assert now.waiting_units <= 2 and now.ready_units <= 3 and now.computing_units <= 1
        pusher.join()
        now = live.statistics
    answers = [unit.index for unit in played if unit.latency]
    assert answers == sorted(set(answers)) and len(answers) == now.played
    assert now.played + now.fillers == 200
    assert now.units + now.dropped_units + now.waiting_units + now.computing_units <= 400
    assert now.units == now.played + now.shed_units + now.ready_units


def test_what_breaks_the_worker_reaches_who_waits():
    class Broken(Gate):
        def step(self, unit):
            raise ArithmeticError("the model fell over")

    with RealTimeSession(Broken(), clock=VirtualClock()) as live:
        live.push_audio(sound(2))
        live.push_video(frames())
        with pytest.raises(ArithmeticError, match="fell over"):
            live.next_unit()
        with pytest.raises(ArithmeticError):
            live.next_unit()


def test_time_runs_out_before_the_first_answer_and_leaving_ends_the_thread():
    live = RealTimeSession(Gate(), clock=VirtualClock())
    with live, pytest.raises(TimeoutError, match=r"pushed\?"):
        live.next_unit(timeout=3.0)
    assert not any(thread.name == "real-time-session" for thread in threading.enumerate())
    with pytest.raises(RuntimeError, match="ended"):
        live.next_unit()


def test_who_waits_is_told_when_the_session_is_left():
    live, told = RealTimeSession(Gate()), []

    def wait():
        try:
            live.next_unit()
        except RuntimeError as error:
            told.append(str(error))

    with live:
        waiting = threading.Thread(target=wait)
        waiting.start()
    waiting.join()
    assert len(told) == 1


def test_a_refused_push_leaves_nothing_behind():
    """Not even the units before the place where it is wrong."""
    box = intake.LiveIntake(H, W, 10)
    sound, frames = torch.zeros(1, 5 * 3840), torch.zeros(3, 20, H, W)
    sound[:, -1], frames[:, -1] = 2.0, 2.0
    for push in (lambda: box.push_video(frames), lambda: box.push_audio(sound)):
        with pytest.raises(ValueError, match=r"in \[-1, 1\]"):
            push()
    with pytest.raises(TypeError, match=r"text is a str, got 5"):
        box.push_text(5)
    box.push_audio(torch.zeros(1, 3840).numpy())
    box.push_video(torch.ones(3, 4, H, W).numpy())
    (unit,) = taken(box)
    assert (unit.video == 1).all() and unit.text is None


def test_wrong_input_is_refused():
    with RealTimeSession(Gate(), clock=VirtualClock()) as live:
        with pytest.raises(ValueError, match="samples"):
            live.push_audio(torch.zeros(2, 10))
        with pytest.raises(ValueError, match="frames"):
            live.push_video(torch.zeros(3, 1, H + 1, W))
        with pytest.raises(ValueError, match="in \\[-1, 1\\]"):
            live.push_audio(torch.full((1, 10), 3.0))
    with pytest.raises(ValueError, match="max_waiting_units"):
        RealTimeSession(Gate(), max_waiting_units=0)
    with pytest.raises(ValueError, match="surplus"):
        RealTimeSession(Gate(), max_ready_units=1)
