"""Units: what is accepted, and that the cut of a stream never shows in what comes out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streamer_pipeline.units import FRAMES_PER_UNIT, SAMPLES_PER_UNIT, AgentUnit, UnitBuffer, UserUnit

H, W = 4, 6


def media(num_units: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    audio = torch.rand(1, int(num_units * SAMPLES_PER_UNIT), generator=generator) * 2 - 1
    video = torch.rand(3, int(num_units * FRAMES_PER_UNIT), H, W, generator=generator) * 2 - 1
    return audio, video


def drain(buffer: UnitBuffer) -> list[UserUnit]:
    return list(iter(buffer.flush, None))


def test_user_unit_accepts_the_right_shapes_and_is_frozen():
    audio, video = media(1)
    unit = UserUnit(audio, video)
    assert unit.text is None
    with pytest.raises(AttributeError):
        unit.text = "no"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, v: (a[:, :-1], v), r"audio has shape \(1, 3840\), got \(1, 3839\)"),
        (lambda a, v: (a[0], v), r"audio has shape"),
        (lambda a, v: (a, v[:, :3]), r"video has shape \(3, 4, any, any\), got \(3, 3, 4, 6\)"),
        (lambda a, v: (a.double(), v), r"audio is a torch.float32 tensor .* torch.float64"),
        (lambda a, v: (a, ((v + 1) * 127).byte()), r"video is a torch.float32 tensor .* torch.uint8"),
        (lambda a, v: (a, v * 2), r"video is finite and in \[-1, 1\]"),
        (lambda a, v: (a.clone().fill_(float("nan")), v), r"audio is finite"),
        (lambda a, v: (a.double().numpy(), v), r"audio is float32 in \[-1, 1\], got a NumPy array of float64"),
        (lambda a, v: (a[:, 1:].numpy(), v), r"audio has shape \(1, 3840\), got \(1, 3839\)"),
        (lambda a, v: (a, (2 * v).numpy()), r"video is finite and in \[-1, 1\]"),
        (lambda a, v: (a, v, "wave \ud83d"), r"text is valid Unicode, got '\\ud83d' alone as character 5"),
    ],
)
def test_user_unit_says_what_is_right(change, message):
    with pytest.raises(ValueError, match=message):
        UserUnit(*change(*media(1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, v: (a.tolist(), v), "audio is a torch.float32 tensor or a NumPy array of float32, got an object of"),
        (lambda a, v: (a, None), r"video is a torch.float32 tensor .*, got None \(NoneType\)"),
        (lambda a, v: (a, v, 5), r"text is a str, got 5 \(int\)"),
        (lambda a, v: (a, v, b"hello"), r"text is a str, got b'hello' \(bytes\)"),
        (lambda a, v: (a, v, ["hello"]), r"text is a str, got \['hello'\] \(list\)"),
    ],
)
def test_user_unit_says_what_type_is_right(change, message):
    with pytest.raises(TypeError, match=message):
        UserUnit(*change(*media(1)))


def test_arrays_are_taken_as_they_are():
    audio, video = media(1)
    unit = UserUnit(audio.numpy(), video.numpy())
    assert torch.equal(unit.audio, audio) and torch.equal(unit.video, video)
    assert (unit.audio.data_ptr(), unit.video.data_ptr()) == (audio.data_ptr(), video.data_ptr())
    backwards, frozen = audio.numpy()[:, ::-1], video.numpy().copy()
    frozen.flags.writeable = False
    unit = UserUnit(backwards, frozen)  # what torch cannot share is copied
    assert torch.equal(unit.audio, audio.flip(1)) and torch.equal(unit.video, video)
    buffer = UnitBuffer(H, W)
    buffer.push_audio(audio.numpy())
    buffer.push_video(video.numpy())
    assert torch.equal(buffer.pop().video, video)


def test_agent_unit_defaults_are_not_shared():
    audio, video = media(1)
    one, two = AgentUnit(audio, video, "hello", "SPEAK"), AgentUnit(audio, video, "", "LISTEN", index=3)
    one.latency["encode"] = 1.0
    assert two.latency == {} and (one.index, two.index) == (0, 3)


@st.composite
def pushes(draw) -> list[tuple[str, int]]:
    """A random order of pushes of random lengths (zero too) with pops anywhere between."""
    return draw(
        st.lists(
            st.one_of(
                st.tuples(st.just("audio"), st.integers(0, 9000)),
                st.tuples(st.just("video"), st.integers(0, 9)),
                st.tuples(st.just("pop"), st.just(0)),
            ),
            max_size=30,
        )
    )


@settings(max_examples=60, deadline=None)
@given(pushes())
def test_units_are_bitwise_the_same_however_the_pushes_are_cut(steps):
    audio, video = media(5.6)
    whole = UnitBuffer(H, W)
    whole.push_audio(audio)
    whole.push_video(video)
    expected = drain(whole)
    assert len(expected) == 6

    buffer, got, a, v = UnitBuffer(H, W), [], 0, 0
    for kind, size in steps:
        if kind == "audio":
            buffer.push_audio(audio[:, a : a + size])
            a = min(a + size, audio.shape[1])
        elif kind == "video":
            buffer.push_video(video[:, v : v + size])
            v = min(v + size, video.shape[1])
        elif (unit := buffer.pop()) is not None:
            got.append(unit)
    buffer.push_audio(audio[:, a:])
    buffer.push_video(video[:, v:])
    got += drain(buffer)

    assert len(got) == len(expected)
    for one, two in zip(got, expected, strict=True):
        assert torch.equal(one.audio, two.audio) and torch.equal(one.video, two.video)
    joined = torch.cat([unit.audio for unit in got], dim=1)
    assert torch.equal(joined[:, : audio.shape[1]], audio) and not joined[:, audio.shape[1] :].any()
    joined = torch.cat([unit.video for unit in got], dim=1)
    assert torch.equal(joined[:, : video.shape[1]], video)
    assert torch.equal(joined[:, video.shape[1] :], video[:, -1:].expand(-1, 24 - video.shape[1], -1, -1))


def test_a_unit_needs_both_sides():
    audio, video = media(2)
    buffer = UnitBuffer(H, W)
    buffer.push_audio(audio)
    buffer.push_video(video[:, :3])
    assert buffer.pop() is None and buffer.num_buffered_units == 0
    buffer.push_video(video[:, 3:4])
    assert buffer.num_buffered_units == 1 and buffer.pop() is not None
    assert (buffer.num_buffered_samples, buffer.num_buffered_frames) == (SAMPLES_PER_UNIT, 0)


def test_flush_pads_with_silence_and_the_last_frame():
    audio, video = media(2)
    buffer = UnitBuffer(H, W)
    assert buffer.flush() is None
    buffer.push_audio(audio[:, :100])
    black = buffer.flush()
    assert torch.equal(black.audio[:, :100], audio[:, :100]) and not black.audio[:, 100:].any()
    assert (black.video == -1).all()
    buffer.push_audio(audio)
    buffer.push_video(video[:, :4])
    assert torch.equal(buffer.pop().video, video[:, :4])
    held = buffer.flush()  # only sound is left: the picture stays as it was
    assert torch.equal(held.video, video[:, 3:4].expand(-1, 4, -1, -1))
    assert buffer.flush() is None


def test_a_text_belongs_to_the_unit_that_is_being_filled():
    audio, video = media(3)
    for pop_early in (False, True):
        buffer, units = UnitBuffer(H, W), []
        buffer.push_text("zero")
        for k in range(3):
            buffer.push_audio(audio[:, k * SAMPLES_PER_UNIT : (k + 1) * SAMPLES_PER_UNIT])
            buffer.push_text(f"late {k}" if k == 1 else "")  # the frames of unit k are missing still
            buffer.push_video(video[:, k * FRAMES_PER_UNIT : (k + 1) * FRAMES_PER_UNIT])
            if k == 1:
                buffer.push_text("two")
            if pop_early:
                units.append(buffer.pop())
        units += drain(buffer)
        assert [unit.text for unit in units] == ["zero", "late 1", "two"]
    buffer.push_text("a")
    buffer.push_text("b")
    assert buffer.flush().text == "a b" and buffer.flush() is None


def test_pushed_memory_may_be_reused():
    audio, video = media(1)
    buffer = UnitBuffer(H, W)
    reused = audio.clone()
    buffer.push_audio(reused)
    reused.zero_()
    buffer.push_video(video)
    assert torch.equal(buffer.pop().audio, audio)


@pytest.mark.parametrize(
    ("push", "message"),
    [
        (lambda b: b.push_audio(torch.zeros(2, 10)), r"samples has shape \(1, any\), got \(2, 10\)"),
        (lambda b: b.push_audio(torch.zeros(10)), r"samples has shape"),
        (lambda b: b.push_audio(torch.zeros(1, 10, dtype=torch.int16)), r"samples is a torch.float32 tensor"),
        (lambda b: b.push_audio(torch.full((1, 10), 1.5)), r"in \[-1, 1\], got values from 1.5"),
        (lambda b: b.push_video(torch.zeros(3, 1, W, H)), r"frames has shape \(3, any, 4, 6\), got \(3, 1, 6, 4\)"),
        (lambda b: b.push_video(torch.zeros(1, 3, H, W)), r"frames has shape"),
        (lambda b: b.push_video(torch.full((3, 1, H, W), float("inf"))), r"frames is finite"),
        (lambda b: b.push_audio(np.zeros((1, 10))), r"samples is float32 .* got a NumPy array of float64"),
        (lambda b: b.push_text("\udc80"), r"text is valid Unicode"),
        (lambda b: b.push_audio(torch.zeros(1, 2 * SAMPLES_PER_UNIT)), r"bound is 2 units = 7680: .*push_video"),
        (lambda b: b.push_video(torch.zeros(3, 8, H, W)), r"bound is 2 units = 8: .*push_audio"),
    ],
)
def test_a_refused_push_changes_nothing(push, message):
    audio, video = media(1)
    buffer = UnitBuffer(H, W, max_units=2)
    buffer.push_audio(audio[:, :1000])
    buffer.push_video(video[:, :1])
    with pytest.raises(ValueError, match=message):
        push(buffer)
    assert (buffer.num_buffered_samples, buffer.num_buffered_frames) == (1000, 1)
    buffer.push_audio(audio[:, 1000:])
    buffer.push_video(video[:, 1:])
    unit = buffer.pop()
    assert torch.equal(unit.audio, audio) and torch.equal(unit.video, video) and unit.text is None
    assert buffer.flush() is None
