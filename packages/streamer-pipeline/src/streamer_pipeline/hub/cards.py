"""What a pipeline says of itself on the Hub: parts, geometry, score card, certificates, licences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from causal_vae.hub.cards import LICENSE, certificate_text, make_card, markdown_table
from huggingface_hub import ModelCard
from torch import nn

from ..units import UNIT_MS

if TYPE_CHECKING:
    from causal_vae import Certificate

    from ..pipeline import StreamerPipeline


def pipeline_card(
    pipeline: StreamerPipeline,
    score: Path | None = None,
    certificates: Mapping[str, Certificate] | None = None,
    license: str = LICENSE,
    licenses: Mapping[str, str] | None = None,
) -> ModelCard:
    """The card of a pipeline.

    Args:
        score: `score.json` of `wan-streamer eval`; without it the card says how to get one.
        certificates: by part, of `certify_checkpoint`.
        license: of the whole, as the Hub names it.
        licenses: of parts and data that differ from it, by name.
    """
    all_licenses = {"weights": license} | dict(licenses or {})
    text = [
        "# Open Wan-Streamer",
        f"One Transformer that listens, sees, speaks and answers on video, full duplex, in units of {UNIT_MS} ms.",
        "```python\nfrom streamer_pipeline import StreamerPipeline\n\n"
        "session = StreamerPipeline.from_pretrained(folder_or_hub_id).open_session(seed=0)\n```",
        "## Parts\n\n" + _parts(pipeline),
        "## Sizes\n\n" + _sizes(pipeline),
        "## Score card\n\n" + _score(score),
        "## Certificates\n\n" + _certificates(certificates or {}),
        "## Licences\n\n" + "\n".join(f"- {name}: {terms}" for name, terms in all_licenses.items()),
    ]
    return make_card("\n\n".join(text), license, ["full-duplex", "streaming", "audio-visual"], "wan-streamer-pipeline")


def _parts(pipeline: StreamerPipeline) -> str:
    rows = []
    for name, part in pipeline.components.items():
        size = f"{sum(p.numel() for p in part.parameters()):,}" if isinstance(part, nn.Module) else ""
        rows.append((name, "none" if part is None else f"`{type(part).__name__}`", size))
    return markdown_table(("part", "class", "parameters"), rows)


def _sizes(pipeline: StreamerPipeline) -> str:
    config, layout = pipeline.streamer.config, pipeline.streamer.layout
    windows = [f"{w} units" if w else "all" for w in (config.context_window, config.response_window)]
    rows = [
        ("tokens of a unit", f"{layout.num_tokens}, {layout.num_response_tokens} of them the response"),
        ("history of contexts, of responses", ", ".join(windows)),
        ("solver steps of a unit", str(pipeline.config.num_inference_steps)),
        ("keys and values of a session, in bytes", f"{2 * pipeline.cache_spec().nbytes():,}"),
        ("prompt", repr(pipeline.config.prompt)),
    ]
    return markdown_table(("what", "value"), rows)


def _score(path: Path | None) -> str:
    if path is None:
        return "None is attached. `wan-streamer eval` with this repository's name makes one."
    from ..evaluation.report import read_json

    card = read_json(path)
    rows = []
    for row in card.measured_rows():
        value = card.value(row.key, "agent")
        if value is not None:
            score = card.score(row.key)
            bounds = (
                "" if score.low is None or score.high is None else f"{row.show(score.low)} .. {row.show(score.high)}"
            )
            rows.append((row.name, row.show(value), bounds, card.aim(row)))
    ran = ", ".join(f"{name} {value}" for name, value in card.run.items() if name not in ("checkpoint", "dataset"))
    return markdown_table(("measure", "agent", "95 %", "aim"), rows) + f"\n\nMeasured with {ran}."


def _certificates(certificates: Mapping[str, Certificate]) -> str:
    if not certificates:
        return "None are attached. `wan-streamer certify` with this repository's name examines every part."
    return "\n\n".join(f"### {name}\n\n{certificate_text(found)}" for name, found in certificates.items())
