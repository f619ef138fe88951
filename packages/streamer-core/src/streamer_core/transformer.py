"""The Transformer: Qwen3's blocks with three rotary axes and keys and values that live in the caller's state.

Parameter names are Qwen3's, and on pure text (equal axes, causal mask) so are the numbers: real weights load as they
are. What is unusual here: the model never decides who sees whom. Masks come in as an argument, and with a cache the
new keys and values are written in place into slots that the caller names, so a denoising pass leaves no trace.

Shape legend: B session, T tokens of this pass, S key slots, L layers, Hq query heads, H key-value heads, D head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import StreamerConfig


@dataclass(frozen=True)
class AttentionBlock:
    """Consecutive query rows that attend to some keys only: `mask` (B or 1, 1, groups * T of the rows, S of the keys),
    added, once for each query head of a group, as `Attention` folds them.

    `keys` None is all keys in order. A pass without blocks worth separating is one block.
    """

    num_rows: int
    keys: Tensor | None
    mask: Tensor


def attention_blocks(
    mask: Tensor, row_counts: list[int], dtype: torch.dtype, num_groups: int = 1
) -> list[AttentionBlock]:
    """Split a boolean mask (B or 1, T, S) by rows and drop, block by block, the keys that none of its rows sees.

    The result is the same as that of the whole mask; a windowed, causal sequence costs a fraction of it.
    """
    blocks = []
    for rows in mask.split(row_counts, dim=1):
        keys = rows.any(dim=1).any(dim=0).nonzero()[:, 0] if len(row_counts) > 1 else None
        seen = rows if keys is None else rows[:, :, keys]
        # Numbers to add, made and repeated once: a boolean mask would be converted anew in every layer.
        added = torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill_(~seen, float("-inf"))
        blocks.append(AttentionBlock(rows.shape[1], keys, added.repeat(1, num_groups, 1)[:, None]))
    return blocks


class HeadExchange(Protocol):
    """How ranks that share a pass trade their tokens for heads, and back, around attention."""

    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Own tokens of all heads (B, heads, own T, D) -> all tokens of own heads (B, own heads, T, D)."""

    def to_tokens(self, y: Tensor) -> Tensor:
        """All tokens of own heads (B, T, own heads * D) -> own tokens of all heads (B, own T, heads * D)."""


class AttentionInputs(NamedTuple):
    """Where the tokens of a pass stand and what they see: the same in every layer, and in every pass over them.

    rotary: of `RotaryEmbedding`. blocks: the mask, cut by rows. slots: (B, T) where the cache keeps their keys and
    values; None without a cache. exchange: None where one process computes the pass; else `rotary` is that of a rank's
    own tokens, `blocks` and `slots` are those of all tokens, and the cache holds the rank's own heads.
    """

    rotary: tuple[Tensor, Tensor]
    blocks: list[AttentionBlock]
    slots: Tensor | None = None
    exchange: HeadExchange | None = None


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class RotaryEmbedding(nn.Module):
    """Multimodal rotary embedding, interleaved as in Qwen3-VL: each frequency belongs to one of three axes.

    When the three positions of a token agree this is the plain one-axis rotary embedding, to the bit. Frequencies are
    Qwen's, rounded to float32; their products with positions are taken in float64 (which Apple's MPS lacks), so that
    two tokens see each other alike in the first minute of a conversation and after months.
    """

    def __init__(self, config: StreamerConfig) -> None:
        super().__init__()
        assert config.rope_sections  # `__post_init__` fills them
        self.head_dim, self.theta, self.scaling = config.head_dim, config.rope_theta, config.rope_scaling
        # Frequencies of the height and of the width axis; all others are those of time.
        self.of_axis = {axis: slice(axis, 3 * config.rope_sections[axis], 3) for axis in (1, 2)}

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (B, 3, T) -> what `rotate` multiplies with, cosine and signed sine, each (B, 1, T, D), float32."""
        exponents = torch.arange(0, self.head_dim, 2, device=positions.device, dtype=torch.float32) / self.head_dim
        frequencies = scaled(1.0 / self.theta**exponents, self.scaling).double()
        angles = positions[:, 0, :, None] * frequencies  # (B, T, D / 2)
        for axis, of_axis in self.of_axis.items():
            angles[..., of_axis] = positions[:, axis, :, None] * frequencies[of_axis]
        cosine, sine = angles.cos().float()[:, None], angles.sin().float()[:, None]
        return torch.cat([cosine, cosine], dim=-1), torch.cat([-sine, sine], dim=-1)


def scaled(frequencies: Tensor, scaling: dict[str, Any] | None) -> Tensor:
    """Rotary frequencies of models that were lengthened after their first training, as transformers computes them.

    "linear": all are `factor` times lower. "llama3": those that turn less than `low_freq_factor` times in
    `original_max_position_embeddings` positions are; those that turn more than `high_freq_factor` times stay; between
    them it is a straight line (Llama 3.1).
    """
    if scaling is None:
        return frequencies
    lowered = frequencies / scaling["factor"]
    if scaling["rope_type"] == "linear":
        return lowered
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = frequencies * scaling["original_max_position_embeddings"] / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * lowered + kept * frequencies


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply the rotary embedding to (B, heads, T, D)."""
    swapped = x.roll(x.shape[-1] // 2, dims=-1)
    return torch.addcmul(x * cosine.to(x.dtype), swapped, sine.to(x.dtype))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention with an added mask; all (B, H, rows or keys, D)."""
    if query.device.type == "cpu" and query.requires_grad and query.dtype == torch.bfloat16:
        # Written out, forward and backward take about half the time of torch's fused kernel at these shapes.
        scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2)) + mask.to(query.dtype)
        return torch.matmul(scores.softmax(dim=-1).to(value.dtype), value)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class Attention(nn.Module):
    def __init__(self, config: StreamerConfig, layer: int) -> None:
        super().__init__()
        c = config
        self.head_dim = c.head_dim
        self.has_rope = layer not in (c.layers_without_rope or [])
        output_bias = c.attention_bias if c.attention_output_bias is None else c.attention_output_bias
        self.num_groups = c.num_attention_heads // c.num_key_value_heads
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=c.attention_bias)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=output_bias)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm else nn.Identity()

    def forward(self, x: Tensor, attention_inputs: AttentionInputs, cache: tuple[Tensor, Tensor] | None) -> Tensor:
        batch, length, _ = x.shape
        blocks = attention_inputs.blocks
        query, key, value = (
            projection(x).view(batch, length, -1, self.head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = self.q_norm(query).transpose(1, 2), self.k_norm(key).transpose(1, 2)
        value = value.transpose(1, 2)
        if self.has_rope:
            query, key = (rotate(x, *attention_inputs.rotary) for x in (query, key))
        if attention_inputs.exchange is not None:
            query, key, value = attention_inputs.exchange.to_heads(query, key, value)
        if cache is not None:
            keys, values = cache  # (B, H, S, D)
            assert attention_inputs.slots is not None  # where there is a history, it says what is written where
            where = attention_inputs.slots[:, None, :, None].expand_as(key)
            # Under autocast the projections are of another dtype than the history.
            key, value = keys.scatter_(2, where, key.to(keys.dtype)), values.scatter_(2, where, value.to(values.dtype))
        outputs = []
        for block, rows in zip(blocks, query.split([block.num_rows for block in blocks], dim=2), strict=True):
            seen = (key, value) if block.keys is None else (key[:, :, block.keys], value[:, :, block.keys])
            # Query heads of a group share their keys: fold them into rows, one larger product instead of several.
            folded = rows.unflatten(1, (-1, self.num_groups)).flatten(2, 3)  # (B, H, groups * T, D)
            y = attend(folded, *seen, block.mask)
            outputs.append(y.unflatten(2, (self.num_groups, -1)).permute(0, 3, 1, 2, 4).flatten(2))
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return self.o_proj(y if attention_inputs.exchange is None else attention_inputs.exchange.to_tokens(y))


class MLP(nn.Module):
    def __init__(self, config: StreamerConfig) -> None:
        super().__init__()
        c = config
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=c.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, config: StreamerConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, attention_inputs: AttentionInputs, cache: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), attention_inputs, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


def check_table(config: StreamerConfig, name: str, table: Any) -> None:
    """Raise ValueError if `table` is a low-rank adapter around one of two tied tables.

    peft wraps a layer by setting it anew. An adapter of words in is not one of words out, but merging adds it to both.
    """
    if config.tie_word_embeddings and "base_layer" in getattr(table, "_modules", ()):
        raise ValueError(
            f"{name} cannot have an adapter: embed_tokens and lm_head are one table (tie_word_embeddings), so that the "
            "merged model would differ. Leave both out of target_modules; modules_to_save trains a copy of either, "
            "trainable_token_indices some of its rows"
        )


class StreamerTransformer(nn.Module):
    """Embeddings (B, T, hidden) -> final hidden states (B, T, hidden), under whatever mask it is given."""

    def __init__(self, config: StreamerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)
        self.num_groups = config.num_attention_heads // config.num_key_value_heads
        self.gradient_checkpointing = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "embed_tokens":
            check_table(self.config, name, value)
        super().__setattr__(name, value)

    def attention_inputs(
        self,
        positions: Tensor,
        mask: Tensor,
        dtype: torch.dtype,
        row_counts: list[int] | None = None,
        slots: Tensor | None = None,
    ) -> AttentionInputs:
        """What `forward` needs to know about its tokens.

        Args:
            positions: (B, 3, T), any integer type.
            mask: boolean (B or 1, T, S), True where seen; S is T without a cache.
            dtype: of the embeddings.
            row_counts: how to cut a long sequence's rows into blocks that need few keys each; default one block.
            slots: (B, T), of the cache.
        """
        blocks = attention_blocks(mask, row_counts or [mask.shape[1]], dtype, self.num_groups)
        return AttentionInputs(self.rotary_emb(positions), blocks, slots)

    def forward(
        self, embeddings: Tensor, attention_inputs: AttentionInputs, cache: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """One pass.

        Args:
            embeddings: (B, T, hidden).
            cache: keys and values (B, L, H, S, D), overwritten in place at the attention_inputs's slots.
        """
        x = embeddings
        for index, layer in enumerate(self.layers):
            layer_cache = None if cache is None else (cache[0][:, index], cache[1][:, index])
            if self.gradient_checkpointing and self.training:
                x = torch.utils.checkpoint.checkpoint(layer, x, attention_inputs, layer_cache, use_reentrant=False)
            else:
                x = layer(x, attention_inputs, layer_cache)
        return self.norm(x)
