"""Batches for the Transformer from stored dyads: the tasks of stage 1 and 2 as windows of one sequence format."""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from causal_vae.training import EndlessBatches, random_seed
from safetensors.torch import load_file
from streamer_core import StreamerTokenizer
from streamer_pipeline.training.modules import DuplexBatch
from torch import Tensor

# A system prompt of three words names the task.
PROMPTS = {
    "duplex": "you are ada",  # hear, see, answer, speak, show a face
    "words": "you are ada",  # the same in words alone
    "hearing": "write my words",  # user's speech -> words
    "seeing": "name the picture",  # user's picture -> words
    "speaking": "read my words",  # typed words -> agent's sound and face
}
LANGUAGE_TASKS = ("hearing", "seeing", "words")  # they need no latents and cost a third
MEDIA_TASKS = ("speaking", "duplex")
# How many entries along its time axis each stored tensor has per unit.
PER_UNIT = {
    "user_audio": 3840,
    "user_frames": 1,
    "user_heard": 1,
    "user_seen": 1,
    "user_typed": 1,
    "state": 1,
    "text": 1,
    "audio_latents": 4,
    "video_latents": 1,
}
MAX_LEAD_IN = 12
CLEANED_SHARE = 0.4  # of windows whose microphone suppresses noise, as browsers' do
_HOP = 240  # samples over which a microphone's level is taken
SLIDES_SHARE = 0.75


@dataclass(frozen=True)
class Mixture:
    """How often each task comes: `tasks` name -> weight; the first group of a batch decides for all of its rows."""

    tasks: dict[str, float]

    @classmethod
    def parse(cls, text: str) -> "Mixture":
        """From "seeing=3 words=1". Raises ValueError for a task that does not exist."""
        tasks = {name: float(weight) for name, weight in (part.split("=") for part in text.split())}
        if unknown := set(tasks) - set(PROMPTS):
            raise ValueError(f"no task {', '.join(sorted(unknown))}; there are {', '.join(PROMPTS)}")
        return cls(tasks)

    def draw_group(self, generator: torch.Generator) -> tuple[str, ...]:
        """The language tasks or the media tasks, by their summed weights."""
        language = sum(weight for task, weight in self.tasks.items() if task in LANGUAGE_TASKS)
        drawn = torch.rand((), generator=generator) * sum(self.tasks.values())
        return LANGUAGE_TASKS if drawn < language else MEDIA_TASKS

    def draw_task(self, group: tuple[str, ...]) -> str:
        names = [task for task in self.tasks if task in group]
        return names[int(torch.multinomial(torch.tensor([float(self.tasks[name]) for name in names]), 1))]


def cut(name: str, tensor: Tensor, first_unit: int, num_units: int) -> Tensor:
    """Units [first_unit, first_unit + num_units) of a stored tensor."""
    return tensor.narrow(time_axis(name), first_unit * PER_UNIT[name], num_units * PER_UNIT[name])


def time_axis(name: str) -> int:
    return 1 if name.endswith("latents") else 0


def units_of(dyad: dict[str, Tensor], first_unit: int, end_unit: int) -> dict[str, Tensor]:
    return {name: cut(name, tensor, first_unit, end_unit - first_unit) for name, tensor in dyad.items()}


class Dyads:
    """Stored dyads of some folders, in memory, with or without latents. Raises ValueError where there are none."""

    def __init__(self, folders: list[Path], with_latents: bool) -> None:
        self._folders, self._with_latents = folders, with_latents
        self._files: set[Path] = set()
        self._dyads: list[dict[str, Tensor]] = []
        self.refresh()
        if not self._dyads:
            raise ValueError(
                f"no dyads-*.safetensors in {', '.join(map(str, folders))}; "
                "make them with examples/train/prepare_dyads.py"
            )

    def refresh(self) -> None:
        """Read the files that have come since the last time."""
        for path in sorted(path for folder in self._folders for path in folder.glob("dyads-*.safetensors")):
            if path in self._files:
                continue
            by_seed: dict[str, dict[str, Tensor]] = defaultdict(dict)
            for key, tensor in load_file(path).items():
                seed, name = key.split(".")
                if self._with_latents or not name.endswith("latents"):
                    by_seed[seed][name] = tensor
            self._dyads += map(self._kept, by_seed.values())
            self._files.add(path)

    def _kept(self, dyad: dict[str, Tensor]) -> dict[str, Tensor]:
        """What stays in memory of a stored dyad."""
        return dyad

    def __len__(self) -> int:
        return len(self._dyads)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._dyads[index]


def draw(dyads: Dyads) -> dict[str, Tensor]:
    return dyads[int(torch.randint(len(dyads), ()))]


def vary_microphone(audio: Tensor) -> Tensor:
    """Another microphone and level for (N,) in [-1, 1]: random gain, a smooth random equaliser, some noise, which some
    suppress."""
    spectrum = torch.fft.rfft(audio)
    curve = torch.nn.functional.interpolate(torch.randn(1, 1, 10) * 4, len(spectrum), mode="linear")[0, 0]  # dB
    wave = torch.fft.irfft(
        spectrum * torch.exp(curve * (math.log(10) / 20) + torch.empty(()).uniform_(-0.9, 0.7)), len(audio)
    )
    wave.add_(torch.randn(len(audio)), alpha=10 ** float(torch.empty(()).uniform_(-4, -2.3)))
    if torch.rand(()) < CLEANED_SHARE:
        wave = suppress_noise(wave)
    return wave.clamp_(-1, 1)


def suppress_noise(audio: Tensor) -> Tensor:
    """What a browser's noise suppression leaves of (N,), N a multiple of 240: speech, with its quiet parts and the
    pauses between words pressed down to near nothing."""
    power = audio.view(-1, _HOP).square().mean(1)
    peak, floor = torch.quantile(power, 0.98), torch.quantile(power, 0.2)
    threshold = torch.maximum(8 * floor, peak * 10 ** float(torch.empty(()).uniform_(-3.5, -2)))
    gain = (power / threshold).clamp(min=1e-4, max=1.0)
    gain = torch.nn.functional.avg_pool1d(gain[None], 3, 1, 1)[0]
    return audio * torch.nn.functional.interpolate(gain[None, None], len(audio), mode="linear")[0, 0]


def vary_camera(frames: Tensor) -> Tensor:
    """Another camera for frames (K, 3, h, w) in [-1, 1], one for all of them: place, distance, tilt, perhaps a mirror,
    brightness, contrast and sensor noise. Colours keep their names."""
    tilt, scale = torch.empty(()).uniform_(-0.12, 0.12), torch.empty(2).uniform_(0.85, 1.1)
    mirror = 1 if torch.rand(()) < 0.5 else -1
    aspect = frames.shape[3] / frames.shape[2]
    rotation = torch.stack([tilt.cos(), -tilt.sin() / aspect, tilt.sin() * aspect, tilt.cos()]).view(2, 2)
    matrix = rotation * scale[:, None] * torch.tensor([mirror, 1.0])
    shift = torch.stack([torch.empty(()).uniform_(-0.15, 0.15), torch.empty(()).uniform_(-0.1, 0.1)])
    placed = torch.cat([matrix, shift[:, None]], 1)[None]
    grid = torch.nn.functional.affine_grid(placed, [1, 3, *frames.shape[2:]], align_corners=False)
    frames = torch.nn.functional.grid_sample(
        frames.flatten(0, 1)[None], grid, padding_mode="border", align_corners=False
    ).view_as(frames)
    contrast, brightness = torch.empty(()).uniform_(0.85, 1.1), torch.empty(()).uniform_(-0.1, 0.1)
    noise = 0.03 * torch.randn(frames.shape[1:])  # one pattern, moved from frame to frame: random numbers are dear
    moved = torch.stack([noise.roll(int(shift), -1) for shift in torch.randint(noise.shape[-1], (len(frames),))])
    return moved.add_(brightness).addcmul_(frames, contrast).clamp_(-1, 1)


class Conversations(EndlessBatches):
    """Batches of windows of `num_units` units cut from dyads in a row; the agent's side is shifted by the
    response delay.

    A window begins with a dyad, or with the end of another whose units do not count: what was asked there is unknown.
    Media batches have `batch_size` rows, language batches twice as many. All processes have the same kind of batch in a
    step: their gradients must be of the same layers.
    """

    def __init__(
        self,
        dyads: Dyads,
        media_dyads: Dyads | None,
        tokenizer: StreamerTokenizer,
        mixture: Mixture,
        num_units: int,
        batch_size: int,
        response_delay: int,
        user_text_slots: int,
        vary: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.dyads, self.media_dyads, self.tokenizer, self.mixture = dyads, media_dyads, tokenizer, mixture
        self.num_units, self.batch_size, self.delay = num_units, batch_size, response_delay
        self.user_text_slots, self.vary = user_text_slots, vary

    def draw(self, step: int, rank: int) -> DuplexBatch:
        of_all_ranks = torch.Generator().manual_seed(random_seed(self.seed, "group", step))
        group = self.mixture.draw_group(of_all_ranks)
        source = self.dyads if group is LANGUAGE_TASKS else self.media_dyads
        rows = self.batch_size if group is MEDIA_TASKS else 2 * self.batch_size
        windows = [self._window(source, self.mixture.draw_task(group)) for _ in range(rows)]
        return collate(windows, with_latents=group is MEDIA_TASKS)

    def _window(self, source: Dyads, task: str) -> dict[str, Tensor]:
        if task == "seeing" and torch.rand(()) < SLIDES_SHARE:
            return self._as_task(task, self._slides(source), 0)
        chosen, lead_in = [], 0
        if task in ("words", "duplex") and torch.rand(()) < 0.4:
            before = draw(source)
            length = len(before["state"])
            lead_in = int(torch.randint(1, min(MAX_LEAD_IN, length) + 1, ()))
            chosen.append(units_of(before, length - lead_in, length))
        while sum(len(dyad["state"]) for dyad in chosen) < self.num_units + self.delay:
            chosen.append(self._cut(draw(source), task))
        names = [name for name in PER_UNIT if all(name in dyad for dyad in chosen)]
        joined = {name: torch.cat([dyad[name] for dyad in chosen], dim=time_axis(name)) for name in names}
        return self._as_task(task, joined, lead_in)

    def _cut(self, dyad: dict[str, Tensor], task: str) -> dict[str, Tensor]:
        """What a window of this task takes of a dyad: for "hearing" the part in which the user speaks, a second and a
        half of one in which nobody does; else all of it."""
        if task != "hearing":
            return dyad
        heard = (dyad["user_heard"] != self.tokenizer.pad_token_id).any(1).nonzero()[:, 0]
        if not len(heard):
            return units_of(dyad, 0, 9)
        return units_of(dyad, max(0, int(heard[0]) - 5), min(len(dyad["state"]), int(heard[-1]) + 4))

    def _slides(self, source: Dyads) -> dict[str, Tensor]:
        """Pictures of many people in a row, one to three units each: a conversation shows too little too long."""
        slides: list[dict[str, Tensor]] = []
        while len(slides) < self.num_units + self.delay:
            dyad = draw(source)
            shown = (dyad["user_seen"] != self.tokenizer.pad_token_id).any(1).nonzero()[:, 0]
            if not len(shown) and torch.rand(()) < 0.5:
                continue
            units = shown if len(shown) else torch.arange(len(dyad["state"]))
            unit = int(units[torch.randint(len(units), ())])
            slides += [units_of(dyad, unit, unit + 1)] * int(torch.randint(1, 4, ()))
        return {name: torch.cat([slide[name] for slide in slides], dim=time_axis(name)) for name in slides[0]}

    def _as_task(self, task: str, joined: dict[str, Tensor], lead_in: int) -> dict[str, Tensor]:
        window = {
            name: cut(name, tensor, 0 if name.startswith("user") else self.delay, self.num_units)
            for name, tensor in joined.items()
        }
        pad, listen = self.tokenizer.pad_token_id, self.tokenizer.state_ids["listen"]
        window["user_text"] = torch.full((self.num_units, self.user_text_slots), pad)
        if "user_typed" in window:
            window["user_text"][:, :1] = window["user_typed"]
        if task == "speaking":
            window["user_text"][:, 0] = self._typed(joined)[: self.num_units]
            window["user_audio"] = torch.zeros_like(window["user_audio"])
        elif task in ("hearing", "seeing"):
            window["text"] = window["user_heard"] if task == "hearing" else self._named_once(window["user_seen"])
            window["state"] = torch.full_like(window["state"], listen)
        window["user_audio"] = window["user_audio"].float() / 32767
        if self.vary:
            window["user_audio"] = vary_microphone(window["user_audio"])
        window["user_frames"] = self._pictures(window["user_frames"])
        window["valid"] = torch.arange(self.num_units) >= lead_in
        window["prompt"] = torch.tensor(self.tokenizer.encode_words(PROMPTS[task]))
        return window

    def _pictures(self, frames: Tensor) -> Tensor:
        """Stored looks (K, 3, h, w) as the video encoder takes them."""
        frames = frames.float().div_(127.5).sub_(1)
        return vary_camera(frames) if self.vary else frames

    def _named_once(self, seen: Tensor) -> Tensor:
        """Words (U, slots) only where they change: a model would repeat itself rather than look."""
        same = torch.cat([torch.tensor([False]), (seen[1:] == seen[:-1]).all(1)])
        return torch.where(same[:, None], self.tokenizer.pad_token_id, seen)

    def _typed(self, joined: dict[str, Tensor]) -> Tensor:
        """(U,) what the user would have typed, a word per unit, just before each of the agent's utterances."""
        pad, speak = self.tokenizer.pad_token_id, self.tokenizer.state_ids["speak"]
        typed = torch.full((len(joined["state"]),), pad)
        speaking = torch.cat([torch.tensor([False]), joined["state"] == speak, torch.tensor([False])]).int()
        edges = speaking.diff()
        for first, end in zip(edges.eq(1).nonzero()[:, 0], edges.eq(-1).nonzero()[:, 0], strict=True):
            words = joined["text"][first:end]
            words = words[words != pad]
            start = max(0, int(first) - self.delay - len(words))
            room = typed[start : max(0, int(first) - self.delay)]
            room[:] = words[: len(room)]
        return typed


def collate(windows: list[dict[str, Tensor]], with_latents: bool) -> DuplexBatch:
    """Windows -> a batch; the latents are left out where only words are trained."""
    names = [name for name in windows[0] if all(name in window for window in windows)]
    stacked = {name: torch.stack([window[name] for window in windows]) for name in names}
    return DuplexBatch(
        prompt_ids=stacked["prompt"],
        user_audio=stacked["user_audio"][:, None],
        user_frames=stacked["user_frames"].transpose(1, 2),
        user_text=stacked["user_text"],
        state=stacked["state"],
        agent_text=stacked["text"],
        valid=stacked["valid"],
        audio_latents=stacked["audio_latents"] if with_latents else None,
        video_latents=stacked.get("video_latents") if with_latents else None,
        reference_audio=stacked.get("reference_audio"),
        reference_video=stacked.get("reference_video"),
    )
