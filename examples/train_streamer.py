"""Train the streaming Transformer and its encoders on dyads that `prepare_dyads.py` stored.

    python examples/train_streamer.py --dyads runs/dyads --run runs/streamer

Run it again with the same `--run` to continue. Writes `<run>/streamer`, `<run>/audio_encoder`, `<run>/video_encoder`.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from causal_codec import (
    CausalAudioEncoder,
    CausalAudioEncoderConfig,
    CausalVideoEncoder,
    CausalVideoEncoderConfig,
)
from causal_vae.training import build_trainer, resume_point
from safetensors.torch import load_file
from streamer_core import StreamerModel, StreamerTokenizer, preset
from streamer_pipeline.training import DuplexTraining, duplex_batch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

PROMPT = "you are ada"
PRESETS = {
    "smoke": {"max_steps": 2, "batch_size": 2, "num_units": 8},
    "tiny": {"max_steps": 1600, "batch_size": 4, "num_units": 40},
}
PER_UNIT = {"user_audio": 3840, "user_frames": 1, "state": 1, "text": 1, "audio_latents": 4, "video_latents": 1}


def vary_microphone(audio: Tensor) -> Tensor:
    """Another microphone and room level for (N,) int16: random gain, a smooth random equaliser, some noise."""
    spectrum = torch.fft.rfft(audio.float())
    curve = torch.nn.functional.interpolate(torch.randn(1, 1, 10) * 4, len(spectrum), mode="linear")[0, 0]  # dB
    wave = torch.fft.irfft(spectrum * 10 ** (curve / 20), len(audio)) * 10 ** torch.empty(()).uniform_(-0.4, 0.2)
    noise = torch.randn(len(audio)) * 32767 * 10 ** torch.empty(()).uniform_(-4, -2)
    return (wave + noise).clamp(-32767, 32767).to(torch.int16)


def vary_camera(frames: Tensor) -> Tensor:
    """Another brightness, contrast and sensor noise for uint8 frames; colours keep their names."""
    contrast, brightness = torch.empty(()).uniform_(0.85, 1.15), torch.empty(()).uniform_(-18, 18)
    noisy = (frames.float() - 128) * contrast + 128 + brightness + 4 * torch.randn(frames.shape)
    return noisy.clamp(0, 255).to(torch.uint8)


class Conversations(IterableDataset):
    """Endless windows of `num_units` units cut from dyads in a row; the agent's side is `response_delay` units ahead.

    A window that begins inside a dyad does not know what was asked before, so its first units do not count.
    """

    def __init__(self, folder: Path, num_units: int, response_delay: int, num_blind_units: int = 8) -> None:
        self.num_units, self.delay, self.num_blind = num_units, response_delay, num_blind_units
        self.dyads: list[dict[str, Tensor]] = []
        for path in sorted(folder.glob("dyads-*.safetensors")):
            tensors = load_file(path)
            for seed in sorted({name.split(".")[0] for name in tensors}, key=int):
                self.dyads.append({name: tensors[f"{seed}.{name}"] for name in PER_UNIT if f"{seed}.{name}" in tensors})
        if not self.dyads:
            raise ValueError(f"no dyads-*.safetensors in {folder}; make them with examples/prepare_dyads.py")

    def __iter__(self):
        while True:
            chosen: list[dict[str, Tensor]] = []
            length = 0
            while length < self.num_units + self.delay or len(chosen) < 2:
                chosen.append(self.dyads[int(torch.randint(len(self.dyads), ()))])
                length += len(chosen[-1]["state"])
            spare = length - self.num_units - self.delay
            # Half of the windows begin with a dyad, so that a session's first units are learned, too.
            start = int(torch.randint(spare + 1, ())) if torch.rand(()) < 0.5 else 0
            yield self._cut(chosen, start)

    def _cut(self, dyads: list[dict[str, Tensor]], start: int) -> dict[str, Tensor]:
        window = {}
        for name in dyads[0]:
            axis = 1 if name.endswith("latents") else 0
            first = start if name.startswith("user") else start + self.delay
            joined = torch.cat([dyad[name] for dyad in dyads], dim=axis)
            window[name] = joined.narrow(axis, first * PER_UNIT[name], self.num_units * PER_UNIT[name])
        window["user_audio"] = vary_microphone(window["user_audio"])
        window["user_frames"] = vary_camera(window["user_frames"])
        window["valid"] = torch.arange(self.num_units) >= (self.num_blind if start else 0)
        return window


def main(
    dyads: Annotated[Path, typer.Option(help="folder that prepare_dyads.py wrote")] = Path("runs/dyads"),
    run: Annotated[Path, typer.Option(help="folder of this run")] = Path("runs/streamer"),
    preset_name: Annotated[str, typer.Option("--preset", help=" | ".join(PRESETS))] = "tiny",
    max_steps: Annotated[int | None, typer.Option(help="instead of the preset's")] = None,
    batch_size: Annotated[int | None, typer.Option(help="instead of the preset's")] = None,
    learning_rate: float = 1.2e-3,
    start_from: Annotated[Path | None, typer.Option(help="an earlier run whose weights to start from")] = None,
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    settings = PRESETS[preset_name]
    max_steps = max_steps or settings["max_steps"]
    run.mkdir(parents=True, exist_ok=True)
    tokenizer = StreamerTokenizer.from_pretrained(dyads / "tokenizer")
    if start_from:
        streamer = StreamerModel.from_pretrained(start_from / "streamer", dtype=torch.float32)
        audio_encoder = CausalAudioEncoder.from_pretrained(start_from / "audio_encoder", dtype=torch.float32)
        video_encoder = CausalVideoEncoder.from_pretrained(start_from / "video_encoder", dtype=torch.float32)
    else:
        config = preset(
            "tiny",
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            state_token_ids=list(tokenizer.state_ids.values()),
            context_window=40,
        )
        streamer = StreamerModel(config)
        audio_encoder = CausalAudioEncoder(CausalAudioEncoderConfig(output_dim=config.perception_dim))
        video_encoder = CausalVideoEncoder(CausalVideoEncoderConfig(output_dim=config.perception_dim))
    training = DuplexTraining(
        streamer.train(),
        audio_encoder.train(),
        video_encoder.train(),
        torch.tensor(tokenizer.encode_words(PROMPT)),
        learning_rate,
        max_steps,
    )
    conversations = Conversations(dyads, settings["num_units"], streamer.config.response_delay)

    def collate(windows: list[dict[str, Tensor]]):
        stacked = {name: torch.stack([window[name] for window in windows]) for name in windows[0]}
        stacked.setdefault("video_latents", None)
        return duplex_batch(
            **stacked, user_text_slots=streamer.config.user_text_slots, pad_token_id=tokenizer.pad_token_id
        )

    loader = DataLoader(conversations, batch_size or settings["batch_size"], collate_fn=collate)
    trainer = build_trainer(run, max_steps, validate_every=None)
    trainer.fit(training, loader, ckpt_path=resume_point(run))
    for name, part in (("streamer", streamer), ("audio_encoder", audio_encoder), ("video_encoder", video_encoder)):
        part.save_pretrained(run / name)
    tokenizer.save_pretrained(run / "tokenizer")
    typer.echo(f"saved streamer, encoders and tokenizer in {run}")


if __name__ == "__main__":
    typer.run(main)
