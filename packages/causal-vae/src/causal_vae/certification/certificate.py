"""Does a part keep the streaming contract? `certify` examines it, ours or a stranger's, and lists what it measured.

certificate = certify(CausalVideoVAE(), torch.rand(2, 3, 16, 48, 96) * 2 - 1, rate=25)
print(certificate.table); assert certificate.passed

A part is a `StreamingModule`, or anything with its attributes and `forward`. A VAE is examined three ways: encoding,
decoding, and both in a row. A part whose training runs other code than its streaming (a Transformer with a mask and a
cache) says so by a method `offline(x)`, which must give what the stream gives.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..streaming import State, StreamingModule, clone_state, state_nbytes
from .causality import CAUSAL_LAWS, PoisonedSubject
from .findings import Finding, Law, Subject, difference, examine, worst
from .laws import STATE_LAWS


@dataclass(frozen=True)
class Row:
    """One finding about one way of using a part ("forward", or a VAE's "encode" and "decode")."""

    way: str
    finding: Finding


@dataclass(frozen=True)
class Certificate:
    """What `certify` found.

    component: class name. shape: of the example. parameters: how many. seconds: that the examination took.
    """

    component: str
    shape: tuple[int, ...]
    parameters: int
    seconds: float
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        return all(row.finding.passed for row in self.rows)

    @property
    def broken(self) -> set[str]:
        """Names of the laws that do not hold in every way."""
        return {row.finding.law for row in self.rows if not row.finding.passed}

    @property
    def table(self) -> str:
        """The rows as a markdown table."""
        lines = ["| way | law | measured | allowed | unit | holds | note |", "|---|---|---|---|---|---|---|"]
        for row in self.rows:
            f = row.finding
            cells = [row.way, f.law, show(f.measured), show(f.allowed), f.unit, "yes" if f.passed else "NO", f.note]
            lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
        return "\n".join(lines)

    def to_json(self) -> str:
        document = asdict(self)
        document["rows"] = [{"way": row.way, **asdict(row.finding)} for row in self.rows]
        for row in document["rows"]:
            if row["measured"] in (float("inf"), None):
                row["measured"] = None if row["measured"] is None else "inf"  # JSON has no infinity
        return json.dumps({"passed": self.passed, **document}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """The certificate that `to_json` wrote.

        Raises:
            ValueError: the text is not a certificate.
        """
        try:
            document = json.loads(text)
            document.pop("passed")
            rows = []
            for row in document.pop("rows"):
                row["measured"] = float("inf") if row["measured"] == "inf" else row["measured"]
                rows.append(Row(row.pop("way"), Finding(**row)))
            return cls(**{**document, "shape": tuple(document["shape"]), "rows": tuple(rows)})
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is not a certificate as Certificate.to_json writes it: {error!r}") from error


def show(value: float | None) -> str:
    """A number for people; an em dash where there is none."""
    if value is None:
        return "—"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.2g}"


@torch.no_grad()
def certify(
    component: nn.Module,
    example: Tensor,
    *,
    rate: float | None = None,
    num_partitions: int = 8,
    num_steps: int = 48,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> Certificate:
    """Examine a part under every law of the streaming contract, in evaluation mode.

    Args:
        component: a `StreamingModule`, or a VAE with `encode` and `decode` besides.
        example: at least 2 streams of at least 3 chunks of what it takes; real data tells more than noise.
        rate: input steps per second (24000 for sound, 25 for video), to give the latency in milliseconds.
        num_partitions: random ragged partitions of the example.
        num_steps: chunks of the long run; more than the longest memory of the part, so that its rings wrap.
        tolerance: allowed difference, relative to the output's largest magnitude, between partitions and batches.

    Raises:
        ValueError: the example is too small, or not a whole number of chunks.
    """
    started, training = time.perf_counter(), component.training
    options: dict[str, Any] = {
        "num_partitions": num_partitions,
        "num_steps": num_steps,
        "tolerance": tolerance,
        "seed": seed,
    }
    component.eval()
    try:
        rows = [
            Row(way, _in_ms(finding, way_rate) if finding.law == "latency" else finding)
            for way, module, x, way_rate in _ways(component, example, rate)
            for finding in examine(PoisonedSubject(module, x, **options), _laws_for(module))
        ]
    finally:
        component.train(training)
    parameters = sum(p.numel() for p in component.parameters())
    seconds = round(time.perf_counter() - started, 2)
    return Certificate(type(component).__name__, tuple(example.shape), parameters, seconds, tuple(rows))


# ---- the ways of using a part ----


class Encoding(StreamingModule):
    """A VAE's `encode` as a map of its own: media -> mean and log-variance, joined over channels."""

    def __init__(self, vae: Any, upsample: int) -> None:
        super().__init__()
        self.vae, self.stride, self.upsample = vae, vae.stride, upsample
        self.lookahead, self.time_axis = vae.lookahead, vae.time_axis

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        posterior, state = self.vae.encode(x, state)
        return torch.cat([posterior.mean, posterior.log_variance], dim=1), state


class Decoding(StreamingModule):
    """A VAE's `decode` as a map of its own: latents -> media."""

    def __init__(self, vae: Any, upsample: int) -> None:
        super().__init__()
        self.vae, self.upsample, self.out_time_axis = vae, upsample, vae.out_time_axis

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.vae.decode(x, state)


def _ways(component: Any, example: Tensor, rate: float | None) -> list[tuple[str, Any, Tensor, float | None]]:
    """(name, module, example, rate) of every way of using the part."""
    if not (hasattr(component, "encode") and hasattr(component, "decode")):
        return [("forward", component, example, rate)]
    latents = component.encode(example)[0].mode()
    per_chunk = latents.shape[2] * component.stride // example.shape[component.time_axis]
    latent_rate = None if rate is None else rate * per_chunk / component.stride
    return [
        ("encode", Encoding(component, per_chunk), example, rate),
        ("decode", Decoding(component, component.upsample // per_chunk), latents, latent_rate),
        ("encode and decode", component, example, rate),
    ]


# ---- laws that only a certificate asks ----


def _laws_for(module: nn.Module) -> dict[str, Law]:
    laws = STATE_LAWS | CAUSAL_LAWS | {"one graph": one_graph, "bytes per session": bytes_per_session}
    return laws | {"offline form": offline_form} if hasattr(module, "offline") else laws


def one_graph(subject: Subject) -> Finding:
    """Steps of a running stream trace into one graph without breaks, once (the eager backend compiles nothing)."""
    num_graphs = 0

    def trace(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        nonlocal num_graphs
        num_graphs += 1
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(subject.module, fullgraph=True, backend=trace, dynamic=False)
    expected, found = clone_state(subject.middle), clone_state(subject.middle)
    errors = {}
    for step in range(3):
        chunk = subject.start(subject.rest(subject.long, 1 + step), 1).clone()
        y, expected = subject.run(chunk, expected)
        traced, found = compiled(chunk, found)
        errors[f"step {step} of the traced module differs"] = difference(traced, y) / subject.scale
    equal = worst(errors, subject.tolerance)
    note = equal.note or ("" if num_graphs == 1 else "every step was traced anew")
    return Finding("", equal.passed and num_graphs == 1, num_graphs, 1, "graphs", note)


def bytes_per_session(subject: Subject) -> Finding:
    """What one session holds; a measurement, which the layout law keeps constant."""
    return Finding("", True, state_nbytes(subject.middle) / subject.batch_size, None, "bytes")


def offline_form(subject: Subject) -> Finding:
    """The whole-sequence form used for training gives what the stream gives: cached equals uncached."""
    offline: Any = subject.module.offline
    stretch = {"the example": subject.x, "a long run": subject.long}
    errors = {}
    for name, x in stretch.items():
        streamed = subject.whole[0] if x is subject.x else subject.long_run[0]
        errors[f"offline and stream differ on {name}"] = difference(offline(x), streamed) / subject.scale
    return worst(errors, subject.tolerance, "relative")


def _in_ms(finding: Finding, rate: float | None) -> Finding:
    """Input steps as milliseconds."""
    if rate is None:
        return finding
    to_ms: Callable[[float | None], float | None] = lambda steps: None if steps is None else 1000 * steps / rate  # noqa: E731
    return replace(finding, measured=to_ms(finding.measured), allowed=to_ms(finding.allowed), unit="ms")
