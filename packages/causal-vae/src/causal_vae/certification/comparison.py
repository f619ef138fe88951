"""Certificates of several parts side by side."""

from __future__ import annotations

from collections.abc import Mapping

from .certificate import Certificate


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
