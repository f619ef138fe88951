"""What a part says of itself on the Hub: its card, and how card and weights get there."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData, create_repo, file_exists, upload_folder
from torch import nn

if TYPE_CHECKING:
    from ..certification.certificate import Certificate

LICENSE = "apache-2.0"
_UNTOLD = ("transformers_version", "dtype", "architectures", "model_type")


# A mixin calls the methods of the class that it is mixed into, which a type checker does not see.
_MixedInto: Any = object


class ModelCardMixin(_MixedInto):
    """Mixin before a class of diffusers or transformers: what is pushed to the Hub has a card."""

    def push_to_hub(
        self,
        repo_id: str,
        card: ModelCard | str | None = None,
        certificate: Certificate | None = None,
        **upload: Any,
    ) -> str:
        """Upload files and a card in one commit; returns its address.

        Args:
            card: the repository's card from now on; None keeps the one that is there, or writes that of `part_card`.
            certificate: of `certify`, for the latter.
            upload: variant, commit_message, private, token, create_pr, revision.
        """
        return push_folder(self, repo_id, card, lambda: part_card(self, certificate), **upload)


def part_card(part: Any, certificate: Certificate | None = None, license: str = LICENSE) -> ModelCard:
    """The card of one part, a model, scheduler or tokenizer: what it is, its configuration, a model's certificate.

    Args:
        certificate: of `certify`; without it the card says how to get one.
        license: of the weights, as the Hub names it.
    """
    package, name = type(part).__module__.partition(".")[0], type(part).__name__
    meaning = (type(part).__doc__ or "").strip().partition("\n")[0]
    fields = [(key, json.dumps(value)) for key, value in _configuration(part).items()]
    is_model = isinstance(part, nn.Module)
    size = f", {sum(p.numel() for p in part.parameters()):,} parameters" if is_model else ""
    sections = [
        f"# {name}",
        meaning,
        f"A part of open Wan-Streamer{size}.",
        f"```python\nfrom {package} import {name}\n\npart = {name}.from_pretrained(folder_or_hub_id)\n```",
        "## Configuration\n\n" + markdown_table(("field", "value"), fields),
        *(["## Certificate\n\n" + certificate_text(certificate)] if is_model else []),
        f"## Licence\n\n{license}",
    ]
    return make_card("\n\n".join(sections), license, ["streaming", "causal"], package)


def _configuration(part: Any) -> dict[str, Any]:
    config = getattr(part, "config", None)
    if config is None:  # a tokenizer
        return {"vocab_size": len(part), "special_tokens": part.all_special_tokens}
    told = config.to_dict() if hasattr(config, "to_dict") else config
    return {key: value for key, value in told.items() if not key.startswith("_") and key not in _UNTOLD}


def certificate_text(certificate: Certificate | None) -> str:
    """A verdict and the findings, or how to get them."""
    if certificate is None:
        return "None is attached. `wan-streamer certify` with this repository's name examines it."
    broken = ", ".join(sorted(certificate.broken))
    verdict = f"Broken: {broken}." if broken else "All laws of the streaming contract hold."
    return f"{verdict}\n\n{certificate.table}"


def markdown_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
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
