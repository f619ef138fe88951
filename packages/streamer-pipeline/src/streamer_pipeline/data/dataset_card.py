"""What a set of dyads says of itself on the Hub, and how it gets there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from causal_vae.hub.cards import markdown_table
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

CARD_FILE = "README.md"
_MEASURES = {
    "conversations": "conversations",
    "dyads": "dyads",
    "hours": "hours of dyads",
    "turns": "turns",
    "overlaps": "times both speak at once",
    "overlap_share": "share of the time in which both speak",
    "user_words": "words of the user",
    "agent_words": "words of the agent",
    "user_speech_share": "share of the time in which the user speaks",
    "agent_speech_share": "share of the time in which the agent speaks",
}


def summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """A summary for people; what is not known is left out."""
    return [
        (text, f"{summary[name]:.1%}" if name.endswith("_share") else f"{summary[name]:,}")
        for name, text in _MEASURES.items()
        if summary.get(name) is not None
    ]


def dataset_card(info: dict[str, Any], license: str) -> str:
    """The card of a set of dyads.

    Args:
        info: what its `dataset_info.json` holds. license: of the recordings, as the Hub names it.
    """
    files = [{"split": split, "path": f"{split}-*.tar"} for split in info["splits"]]
    data = DatasetCardData(
        license=license,
        tags=["full-duplex", "dyads", "webdataset"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    splits = [
        (split, f"{numbers['conversations']:,}", f"{numbers['dyads']:,}", f"{numbers['hours']:,}")
        for split, numbers in info["splits"].items()
    ]
    height, width = info["size"]
    transcribed = f" Words were written by the recogniser {info['transcribed_by']}." if info["transcribed_by"] else ""
    text = [
        "# Dyads",
        "Conversations of a user and an agent on one wall clock, in units of 160 ms: sound at 24 kHz, pictures of "
        f"{height} x {width} at 25 fps where there are any, words with times. Made from recordings ({info['source']}) "
        f"by `wan-streamer prepare` of open Wan-Streamer.{transcribed}",
        '```python\nfrom streamer_pipeline import read_dyads\n\nfor dyad in read_dyads(folder_or_hub_id, "train"):\n'
        '    print(dyad.key, dyad.user_audio.shape, dyad.labels["agent"]["transcript"])\n```',
        "## Size\n\n" + markdown_table(("what", "value"), summary_rows(info["summary"])),
        "## Splits\n\nBy "
        + info["split_by"]
        + ".\n\n"
        + markdown_table(("split", "conversations", "dyads", "hours"), splits),
        "## Members of a shard\n\n" + markdown_table(("member", "content"), _MEMBERS),
        f"{info['num_skipped']:,} conversations could not be used." if info["num_skipped"] else "",
    ]
    return str(DatasetCard(f"---\n{data.to_yaml()}\n---\n" + "\n\n".join(filter(None, text)) + "\n"))


_MEMBERS = [
    ("`KEY.user.flac`, `KEY.agent.flac`", "24 kHz, 16 bit, mono"),
    ("`KEY.user.mp4`, `KEY.agent.mp4`", "H.264, 25 fps, no sound; missing where nobody filmed"),
    (
        "`KEY.json`",
        "`num_units`; `conversation`, and `first_unit` of it; `split`; `swapped`; `timing`, as measured; of `user` and "
        "`agent`: `speaker`, `has_picture`, `transcript` ([word, start, end] in seconds, or null); of `agent`: `words` "
        "and `speaking` of every unit",
    ),
]


def push_dyads(folder: Path, repo_id: str, private: bool | None = None) -> str:
    """Upload a prepared data set; returns its address. What is there already is not sent again."""
    api = HfApi()
    address = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    files = ["*.tar", "*.json", "*.png", CARD_FILE]
    api.upload_folder(
        repo_id=repo_id, repo_type="dataset", folder_path=folder, allow_patterns=files, ignore_patterns=[".prepare/*"]
    )
    return str(address)
