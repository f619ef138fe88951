"""What a part says of itself on the Hub: its card, and how card and weights get there."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData, create_repo, file_exists, upload_folder
from torch import nn

if TYPE_CHECKING:
    from .certificate import Certificate

LICENSE = "apache-2.0"
_UNTOLD = ("transformers_version", "dtype", "architectures", "model_type")


def part_card(part: nn.Module, certificate: Certificate | None = None, license: str = LICENSE) -> ModelCard:
    """The card of one part: what it is, its configuration, its certificate.

    Args:
        certificate: of `certify`; without it the card says how to get one.
        license: of the weights, as the Hub names it.
    """
    package, name = type(part).__module__.partition(".")[0], type(part).__name__
    meaning = (type(part).__doc__ or "").strip().partition("\n")[0]
    told = part.config.to_dict() if hasattr(part.config, "to_dict") else part.config
    fields = [(key, json.dumps(value)) for key, value in told.items() if not key.startswith("_") and key not in _UNTOLD]
    lines = [
        f"# {name}",
        meaning,
        f"A part of open Wan-Streamer, {sum(p.numel() for p in part.parameters()):,} parameters.",
        f"```python\nfrom {package} import {name}\n\npart = {name}.from_pretrained(folder_or_hub_id)\n```",
        "## Configuration\n\n" + markdown_table(("field", "value"), fields),
        "## Certificate\n\n" + certificate_text(certificate),
        f"## Licence\n\nWeights: {license}.",
    ]
    return make_card("\n\n".join(lines), license, ["streaming", "causal"], package)


def certificate_text(certificate: Certificate | None) -> str:
    """A verdict and the findings, or how to get them."""
    if certificate is None:
        return "None is attached. `wan-streamer certify` with this repository's name examines it."
    broken = ", ".join(sorted(certificate.broken))
    verdict = f"Broken: {broken}." if broken else "All laws of the streaming contract hold."
    return f"{verdict}\n\n{certificate.table}"


def markdown_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Rows of cells as markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def make_card(text: str, license: str, tags: list[str], library: str) -> ModelCard:
    """A card with the header that the Hub reads."""
    data = ModelCardData(license=license, library_name=library, tags=tags)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}\n")


def push_folder(
    model: Any,
    repo_id: str,
    card: ModelCard | str | None,
    default_card: Callable[[], ModelCard | str],
    variant: str | None = None,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    create_pr: bool = False,
    revision: str | None = None,
) -> str:
    """Save `model` beside its card and upload both in one commit: the commit's address.

    Args:
        card: what the repository's card becomes; None keeps the one that is there, or else writes `default_card`.
    """
    repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    if card is None and not file_exists(repo_id, "README.md", token=token):
        card = default_card()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, **({"variant": variant} if variant else {}))
        if card is not None:
            (Path(folder) / "README.md").write_text(str(card), encoding="utf-8")
        return upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            token=token,
            commit_message=commit_message or f"Upload {type(model).__name__}",
            create_pr=create_pr,
            revision=revision,
        )
