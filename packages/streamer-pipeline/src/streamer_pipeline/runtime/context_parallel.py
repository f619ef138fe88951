"""The context-parallel performer: one unit's response denoised by a group of ranks (second report, v0.2).

Each rank holds all weights, the audio tokens, and its own run of the video tokens. Around attention the ranks trade
tokens for heads and back (DeepSpeed-Ulysses, Jacobs et al. 2023), so a rank's history is that of its own heads alone:
K/V that comes in is written locally, and a session takes 1/R of the memory on each of R ranks. Audio is short: it is
not split. Every rank has it, computes attention for its own heads of it, and shares the result.

The group's first rank talks to the thinker. To the thinker the group is a performer like any other: each rank runs

    exchange = UlyssesExchange(pipeline.streamer.config, group)
    performer = ContextParallelPerformer(pipeline.streamer, pipeline.scheduler, exchange)
    perform(performer, GroupChannel(exchange, pipeline.streamer.device, channel if first else None))

Shape legend: B session, T tokens, L layers, H key-value heads, D head width, R ranks.
"""

from __future__ import annotations

from collections import Counter
from copy import copy
from dataclasses import replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from causal_vae import State
from streamer_core import (
    AttentionInputs,
    CacheSpec,
    Latents,
    Solver,
    StreamerConfig,
    StreamerModel,
    UnitLayout,
    read_kv,
)
from torch import Tensor

from ..performer import Performer
from .channel import Channel, ChannelClosed


def head_shares(config: StreamerConfig, num_ranks: int) -> tuple[int, int]:
    """Attention heads and key-value heads of each rank.

    Raises:
        ValueError: they do not divide over the ranks.
    """
    query_heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if query_heads % num_ranks or kv_heads % num_ranks:
        raise ValueError(
            f"{query_heads} attention heads with {kv_heads} key-value heads do not divide over {num_ranks} ranks: "
            "the number of ranks must divide both"
        )
    return query_heads // num_ranks, kv_heads // num_ranks


def video_shares(config: StreamerConfig, num_ranks: int) -> list[int]:
    """Video tokens of each rank: as equal as can be, the first ranks take what is left over."""
    share, rest = divmod(config.agent_video_tokens, num_ranks)
    return [share + (rank < rest) for rank in range(num_ranks)]


def unit_nbytes(
    config: StreamerConfig, num_ranks: int, rank: int, num_steps: int, bytes_per_number: int = 4
) -> Counter[str]:
    """Bytes that a rank of the group sends to the other ranks for one unit of one session, by purpose.

    Args:
        num_steps: solver steps; the commit is one pass more.

    Returns:
        "context": the thinker's K/V, from the first rank to those whose heads they are. "attention": queries, keys and
        values of video tokens to the ranks of their heads, outputs to the ranks of their tokens. "latents": clean
        video, to all. "commit": the response's K/V, to the first rank. "control": announcements of what comes.
    """
    c, layout, others, is_first = config, UnitLayout(config), num_ranks - 1, rank == 0
    own = video_shares(c, num_ranks)[rank]
    query_heads, kv_heads = head_shares(c, num_ranks)
    query_width, kv_width = query_heads * c.head_dim, 2 * kv_heads * c.head_dim
    to_heads = others * own * (query_width + kv_width)
    to_tokens = (others * c.agent_audio_tokens + c.agent_video_tokens - own) * query_width
    per_token = c.num_hidden_layers * kv_width  # numbers per token
    numbers = {
        "context": others * layout.num_context_tokens * per_token if is_first else 0,
        "attention": (num_steps + 1) * c.num_hidden_layers * (to_heads + to_tokens),
        "latents": others * own * c.video_token_dim,
        "commit": 0 if is_first else layout.num_response_tokens * per_token,
    }
    nbytes = {purpose: count * bytes_per_number for purpose, count in numbers.items()}
    return Counter(nbytes | {"control": 8 * others if is_first else 0})


class UlyssesExchange:
    """One rank's place in the group: which tokens and heads are its own, and how it trades them.

    Args:
        group: of `torch.distributed`; None is the default group. gloo on CPU (nccl on GPU: not verified).

    Attributes:
        num_bytes: what this rank has sent to others, by the purposes of `unit_nbytes`.

    Raises:
        ValueError: the heads do not divide over the ranks.
    """

    def __init__(self, config: StreamerConfig, group: dist.ProcessGroup | None = None) -> None:
        self.config, self._group = config, group
        self.rank, self.num_ranks = dist.get_rank(group), dist.get_world_size(group)
        self._num_query_heads, self._num_kv_heads = head_shares(config, self.num_ranks)
        self.heads = slice(self.rank * self._num_kv_heads, (self.rank + 1) * self._num_kv_heads)
        self._shares = video_shares(config, self.num_ranks)
        start = sum(self._shares[: self.rank])
        self.video = slice(start, start + self._shares[self.rank])
        self.num_bytes: Counter[str] = Counter()

    def own_tokens(self, response: Tensor, dim: int) -> Tensor:
        """Of all response tokens, along `dim`, those that this rank holds: all audio, its own video."""
        num_audio = self.config.agent_audio_tokens
        audio = response.narrow(dim, 0, num_audio)
        video = response.narrow(dim, num_audio + self.video.start, self._shares[self.rank])
        return torch.cat([audio, video], dim)

    def cache_spec(self, cache_spec: CacheSpec) -> CacheSpec:
        """The same slots for this rank's heads alone; its `nbytes` is what a session takes here."""
        own = copy(self.config)
        own.num_attention_heads, own.num_key_value_heads = self._num_query_heads, self._num_kv_heads
        return replace(cache_spec, layout=UnitLayout(own))

    # ---- around attention: `HeadExchange` of streamer_core ----

    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Video goes to the ranks of its heads; of audio, which everyone has, each takes its own heads."""
        by_rank = [part.unflatten(1, (self.num_ranks, -1)) for part in (query, key, value)]
        packed = torch.cat(by_rank, dim=2)  # (B, R, heads of a rank, own T, D)
        num_audio = self.config.agent_audio_tokens
        audio, video = packed[:, self.rank, :, :num_audio], packed[:, :, :, num_audio:]
        outgoing = video.permute(1, 3, 0, 2, 4).flatten(0, 1)
        video = self._trade(outgoing, [self._shares[self.rank]] * self.num_ranks, self._shares, "attention")
        tokens = torch.cat([audio, video.permute(1, 2, 0, 3)], dim=2)
        return tokens.split([self._num_query_heads, self._num_kv_heads, self._num_kv_heads], dim=1)

    def to_tokens(self, y: Tensor) -> Tensor:
        """Every row goes to the ranks that hold its token: video to one, audio to all."""
        num_audio = self.config.agent_audio_tokens
        audio, *videos = y.transpose(0, 1).split([num_audio, *self._shares])
        outgoing = torch.cat([part for video in videos for part in (audio, video)])
        counts = [num_audio + share for share in self._shares]
        traded = self._trade(outgoing, counts, [counts[self.rank]] * self.num_ranks, "attention")
        return traded.unflatten(0, (self.num_ranks, -1)).permute(2, 1, 0, 3).flatten(2)

    # ---- once per unit ----

    def all_video(self, own: Tensor) -> Tensor:
        """Own video tokens (B, own tokens, dim) -> those of all ranks (B, tokens, dim), on every rank."""
        outgoing = own.transpose(0, 1).repeat(self.num_ranks, 1, 1)
        return self._trade(outgoing, [own.shape[1]] * self.num_ranks, self._shares, "latents").transpose(0, 1)

    def share(self, words: Tensor) -> Tensor:
        """The first rank's (N,) on every rank; the others give one of that length and type."""
        outgoing = words.repeat(self.num_ranks if self.rank == 0 else 0)
        return self._trade(outgoing, self._at_first(len(words)), self._with_first(len(words)), "control")

    def scatter_heads(self, packed: Tensor) -> Tensor:
        """The first rank's (H, ...) -> every rank's own heads, in place; elsewhere the other heads are zeros."""
        count = self._num_kv_heads
        outgoing = packed if self.rank == 0 else packed[:0]
        own = self._trade(outgoing, self._at_first(count), self._with_first(count), "context")
        if self.rank == 0:
            return packed
        whole = torch.zeros_like(packed)
        whole[self.heads] = own
        return whole

    def gather_heads(self, own: Tensor) -> Tensor:
        """Every rank's own heads (own H, ...) -> (H, ...) on the first rank; zeros elsewhere."""
        whole = self._trade(own, self._with_first(len(own)), self._at_first(len(own)), "commit")
        return whole if self.rank == 0 else own.new_zeros(self.num_ranks * len(own), *own.shape[1:])

    def _at_first(self, count: int) -> list[int]:
        """Rows between this rank and each rank, if this is the first; else none."""
        return [count if self.rank == 0 else 0] * self.num_ranks

    def _with_first(self, count: int) -> list[int]:
        """Rows between this rank and the first, and none with the others."""
        return [count] + [0] * (self.num_ranks - 1)

    def _trade(self, outgoing: Tensor, counts: list[int], incoming_counts: list[int], purpose: str) -> Tensor:
        """Send the first `counts[0]` rows to rank 0, the next `counts[1]` to rank 1, ...; rows come back alike."""
        num_rows = sum(counts) - counts[self.rank]
        self.num_bytes[purpose] += num_rows * outgoing.shape[1:].numel() * outgoing.element_size()
        incoming = outgoing.new_empty(sum(incoming_counts), *outgoing.shape[1:])
        dist.all_to_all_single(incoming, outgoing.contiguous(), incoming_counts, counts, group=self._group)
        return incoming


class ContextParallelPerformer(Performer):
    """A performer of which every rank of a group is a part: all call the same methods, in the same order.

    K/V that is given needs to be right for the rank's own heads only. Noise is the same on every rank, and so are the
    latents that come back; the K/V of `commit` is whole on the first rank.
    """

    def __init__(self, streamer: StreamerModel, solver: Solver, exchange: UlyssesExchange) -> None:
        super().__init__(streamer, solver)
        self.exchange = exchange

    def start(self, prompt_kv: Tensor, cache_spec: CacheSpec) -> State:
        """As `Performer.start`, for this rank's heads. Bytes are counted from here."""
        self.exchange.num_bytes.clear()
        return super().start(self._own_heads(prompt_kv), self.exchange.cache_spec(cache_spec))

    def receive(self, context_kv: Tensor, state: State, cache_spec: CacheSpec) -> AttentionInputs:
        """As `Performer.receive`; the passes over y_k will be shared."""
        attention_inputs = super().receive(self._own_heads(context_kv), state, cache_spec)
        cosine, sine = (self.exchange.own_tokens(part, 2) for part in attention_inputs.rotary)
        return attention_inputs._replace(rotary=(cosine, sine), exchange=self.exchange)

    def solve(self, noise: Latents, state: State, attention_inputs: AttentionInputs, num_steps: int) -> Latents:
        """As `Performer.solve`; between the passes each rank integrates its own video."""
        own = {**noise, "video": noise["video"][:, self.exchange.video]}
        latents = super().solve(own, state, attention_inputs, num_steps)
        return {**latents, "video": self.exchange.all_video(latents["video"])}

    def velocity(self, latents: Latents, sigma: Tensor, state: State, attention_inputs: AttentionInputs) -> Latents:
        """One shared pass: the velocities of audio and of this rank's video."""
        audio, video = latents["audio"], latents["video"]
        hidden = self.streamer.step(self._embed(audio, video, sigma), state, attention_inputs)
        return dict(zip(("audio", "video"), self.streamer.velocities(hidden, audio, video, sigma), strict=True))

    def commit(self, latents: Latents, state: State, attention_inputs: AttentionInputs) -> Tensor:
        """As `Performer.commit`, from whole latents; the K/V returned is whole on the first rank, zeros elsewhere."""
        video = latents["video"][:, self.exchange.video]
        sigma = video.new_zeros(state["unit"].shape[0])
        self.streamer.step(self._embed(latents["audio"], video, sigma), state, attention_inputs)
        assert attention_inputs.slots is not None  # of `receive`
        packed = read_kv(state, attention_inputs.slots)
        return self.exchange.gather_heads(packed.movedim(3, 0)).movedim(0, 3)

    def _own_heads(self, packed: Tensor) -> Tensor:
        return packed[:, :, :, self.exchange.heads]

    def _embed(self, audio: Tensor, own_video: Tensor, sigma: Tensor) -> Tensor:
        """Embeddings of this rank's tokens: a token's place in the unit is part of its embedding."""
        after = self.streamer.config.agent_video_tokens - self.exchange.video.stop
        video = F.pad(own_video, (0, 0, self.exchange.video.start, after))
        return self.exchange.own_tokens(self.streamer.embed_response(audio, video, sigma), 1)


class GroupChannel:
    """The performer's end of a channel, for `perform` on every rank of a group: the first holds it, all hear it.

    Of K/V each rank is sent its own heads only; the message that it reads has the agreed length, and zeros for the
    others. What the others send goes nowhere: they have given it to the first.

    Args:
        device: where messages live.
        channel: to the thinker; on the group's first rank, and there only.

    Raises:
        ValueError: the first rank has no channel, or another has one.
    """

    def __init__(
        self, exchange: UlyssesExchange, device: torch.device | str = "cpu", channel: Channel | None = None
    ) -> None:
        if (exchange.rank == 0) != (channel is not None):
            raise ValueError("the channel to the thinker belongs to the group's first rank, and to that one only")
        self._exchange, self._device, self._channel = exchange, device, channel
        self._has_opened = False

    def send(self, message: Tensor) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def receive(self) -> Tensor:
        message, end = self._hear()
        num_bytes = int(self._exchange.share(torch.tensor([len(message)], device=self._device)))
        if not num_bytes:
            raise end or ChannelClosed("the group's first rank has ended the conversation")
        if self._channel is None:
            message = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
        if self._has_opened:
            return self._scatter(message)
        self._has_opened = True  # a conversation opens with numbers; all that follows is K/V
        return self._exchange.share(message)

    def close(self, reason: str = "") -> None:
        if self._channel is not None:
            self._channel.close(reason)

    def _hear(self) -> tuple[Tensor, ChannelClosed | None]:
        """The thinker's message; empty at the end, of which this says why, and where the channel is not."""
        end = None
        if self._channel is not None:
            try:
                return self._channel.receive().to(self._device), None
            except ChannelClosed as closed:
                end = closed
        return torch.empty(0, dtype=torch.uint8, device=self._device), end

    def _scatter(self, message: Tensor) -> Tensor:
        """The bytes of (1, 2, L, H, T, D) to the ranks of their heads."""
        c = self._exchange.config
        heads = message.view(2 * c.num_hidden_layers, c.num_key_value_heads, -1).transpose(0, 1)
        return self._exchange.scatter_heads(heads).transpose(0, 1).reshape(-1)
