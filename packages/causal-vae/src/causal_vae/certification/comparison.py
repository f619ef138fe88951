"""Certificates of several parts side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .certificate import Certificate, certify


def compare_parts(
    parts: Mapping[str, tuple[nn.Module, Tensor, float]], folder: Path | None = None, **options: Any
) -> str:
    """Certify several parts: `compare_certificates` of them.

    Args:
        parts: by name, each with an example of what it takes and the example's steps per second.
        folder: every certificate is written there as JSON.
        options: of `certify`.

    Raises:
        ValueError: an example is too small, or not a whole number of chunks.
        OSError: the folder cannot be written.
    """
    certificates = {name: certify(part, example, rate=rate, **options) for name, (part, example, rate) in parts.items()}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, certificate in certificates.items():
            (folder / f"{name.replace(' ', '-').lower()}.json").write_text(certificate.to_json(), encoding="utf-8")
    return compare_certificates(certificates)


def compare_certificates(certificates: Mapping[str, Certificate]) -> str:
    """A markdown table with a row per law and a column per certificate, by the names given.

    A cell holds the largest number measured over all ways of the part; where the law does not hold, "no" before it.
    """
    laws = list(dict.fromkeys(row.finding.law for certificate in certificates.values() for row in certificate.rows))
    lines = ["| law | " + " | ".join(certificates) + " |", "|---" * (1 + len(certificates)) + "|"]
    lines += [f"| {law} | " + " | ".join(_cell(each, law) for each in certificates.values()) + " |" for law in laws]
    return "\n".join(lines)


def _cell(certificate: Certificate, law: str) -> str:
    findings = [row.finding for row in certificate.rows if row.finding.law == law]
    if not findings:
        return "—"
    numbers = [finding.measured for finding in findings if finding.measured is not None]
    number = f"{max(numbers):.3g} {findings[0].unit}" if numbers else "raises"
    return number if all(finding.passed for finding in findings) else f"**no**: {number}"
