"""The laws of the streaming contract as assertions, for any `StreamingModule`, ours or a stranger's.

check_streaming(module, x)      # state laws: partitions, batches, forks, hand-over
check_causal(module, x)         # no output depends on its future; returns the measured look-ahead

The laws themselves are in `causal_vae.certification.laws`; `causal_vae.certify` lists them instead of raising.
"""

from __future__ import annotations

from torch import Tensor

from .certification.causality import PoisonedSubject, look_ahead
from .certification.findings import Finding, Subject, examine
from .certification.laws import STATE_LAWS
from .streaming import StreamingModule


def check_streaming(
    module: StreamingModule, x: Tensor, *, num_partitions: int = 8, tolerance: float = 1e-5, seed: int = 0
) -> None:
    """Assert the state laws of `causal_vae.streaming` on `x`, a batch of at least 2 streams of several chunks.

    Args:
        tolerance: largest allowed difference between partitions, relative to the output's largest magnitude (or 1).
    """
    subject = Subject(module, x, num_partitions=num_partitions, tolerance=tolerance, seed=seed)
    for finding in examine(subject, STATE_LAWS):
        _assert_kept(finding)


def check_causal(module: StreamingModule, x: Tensor) -> int:
    """Poison every future input and measure the look-ahead, in input steps; it must equal the declared one.

    For every chunk border, all inputs from there on become NaN; outputs that belong to earlier chunks must not change.
    """
    (finding,) = examine(PoisonedSubject(module, x), {"look-ahead": look_ahead})
    _assert_kept(finding)
    assert finding.measured is not None  # what is kept was measured
    return int(finding.measured)


def _assert_kept(finding: Finding) -> None:
    measured = "" if finding.measured is None else f" (measured {finding.measured:.3g} {finding.unit})"
    assert finding.passed, f"{finding.law}: {finding.note}{measured}"
