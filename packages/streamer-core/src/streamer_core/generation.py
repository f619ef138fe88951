"""The cycle of one unit over embedded tokens and the key-value state, stated once (report, section 2.4 and figure 2).

Context pass, decoding of the language slots, solve, commit: pure functions without media, which write K/V in place for
the current unit of the state and leave its clock alone. Thinker and performer, the certificate, distillation,
benchmarks and tests all call these; `generate_unit` composes them where one state serves both halves.

Shape legend: B session, U user tokens, T tokens, S agent's text slots, V vocabulary, D hidden width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from causal_vae import State
from torch import Tensor

from .cache import CacheSpec, advance
from .model import StreamerModel
from .scheduler import Latents, Solver
from .transformer import AttentionInputs

# ---- language: the state slot and the agent's text slots ----


class Context(NamedTuple):
    """Final hidden states of a context: before_language (B, 1 + S, D) of the tokens before the language slots, from
    which each slot is predicted; user_audio (B, A, D)."""

    before_language: Tensor
    user_audio: Tensor


def context_pass(model: StreamerModel, user: Tensor, language: Tensor, kv: State, cache_spec: CacheSpec) -> Context:
    """One pass over the context of this unit, its language as given.

    Args:
        user: (B, U, D), of `embed_user`.
        language: ids (B, 1 + S): the unit's own where they are known, or a draft.
    """
    layout = model.layout
    embeddings = torch.cat([user.to(model.dtype), model.embed_language(language, layout.language)], dim=1)
    hidden = model.step(embeddings, kv, model.attention_inputs(kv, cache_spec, layout.context))
    return Context(hidden[:, layout.language.start - 1 : -1], hidden[:, layout.user_audio])


def choose_language(model: StreamerModel, hidden: Tensor, first: int = 0, gumbel: Tensor | None = None) -> Tensor:
    """Ids (B, T) of the language slots from `first` on, from the hidden states (B, T, D) of the tokens before them.

    The state slot says one of the states, the text slots anything else.

    Args:
        gumbel: (B, 1 + S, V) scaled Gumbel noise to sample with, or None for the most likely token.
    """
    states = torch.tensor(model.config.state_token_ids, device=hidden.device)
    logits = model.lm_head(hidden)
    if gumbel is not None:
        logits = logits + gumbel[:, first : first + logits.shape[1]]
    words = logits.index_fill(2, states, float("-inf")).argmax(dim=-1)
    if first > 0:
        return words
    return torch.cat([states[logits[:, :1, states].argmax(dim=-1)], words[:, 1:]], dim=1)


def write_down(model: StreamerModel, context: Context) -> Tensor:
    """Ids (B, S) of what the user says; (B, 0) of a model without a head for it."""
    hidden = context.user_audio
    if not model.config.hears_words:
        return torch.empty(len(hidden), 0, dtype=torch.int64, device=hidden.device)
    return model.heard_logits(hidden).argmax(dim=-1)


def draft_language(model: StreamerModel, ids: Tensor) -> Tensor:
    """What the unit after one that said `ids` (B, 1 + S) most likely says: the same state, and no word."""
    return torch.cat([ids[:, :1], torch.full_like(ids[:, 1:], model.config.pad_token_id)], dim=1)


def revise_language(
    model: StreamerModel, ids: Tensor, first: int, kv: State, cache_spec: CacheSpec, gumbel: Tensor | None = None
) -> Tensor:
    """Pass over the language slots from `first` on, as given in `ids` (B, 1 + S): ids of the slots after it."""
    region = slice(model.layout.language.start + first, model.layout.language.stop)
    embeddings = model.embed_language(ids[:, first:], region)
    hidden = model.step(embeddings, kv, model.attention_inputs(kv, cache_spec, region))
    return choose_language(model, hidden[:, :-1], first + 1, gumbel)


def settle_language(
    model: StreamerModel,
    ids: Tensor,
    draft: Tensor,
    kv: State,
    cache_spec: CacheSpec,
    gumbel: Tensor | None = None,
    verified_rows: Iterable[int] | None = None,
) -> Tensor:
    """The language of this unit, each slot chosen from those before it: ids (B, 1 + S), their K/V written.

    After a context pass over a draft the first slot's choice is right, and each pass over the slots from the first one
    that may be wrong makes one more right (parallel decoding by Jacobi iteration, Santilli et al. 2023). The last pass
    writes the K/V of the last slot. So `1 + S` passes over ever fewer slots are enough, whatever is said.

    Args:
        ids: chosen after the context pass over `draft`; both (B, 1 + S).
        gumbel: see `choose_language`.
        verified_rows: None makes all those passes: no value of the device is asked for, so nothing waits and the unit
            is one graph. Otherwise only these rows are settled, each by itself and only while its choice and its draft
            differ, which is seldom: cheap where asking costs nothing, on the CPU. What the other rows say is not
            defined then. Both ways give the same ids.
    """
    if verified_rows is None:
        for first in range(model.layout.num_language_slots):
            later = revise_language(model, ids, first, kv, cache_spec, gumbel)
            ids = torch.cat([ids[:, : first + 1], later], dim=1)
        return ids
    rows = list(ids.split(1))
    for row in verified_rows:
        one = slice(row, row + 1)
        own_kv = {name: leaf[one] for name, leaf in kv.items()}
        own_gumbel = None if gumbel is None else gumbel[one]
        said, chosen = draft[one], rows[row]
        while not torch.equal(chosen, said):
            first = int((chosen != said)[0].int().argmax())
            later = revise_language(model, chosen, first, own_kv, cache_spec, own_gumbel)
            said, chosen = chosen, torch.cat([chosen[:, : first + 1], later], dim=1)
        rows[row] = chosen
    return torch.cat(rows)


# ---- the response: sound and picture ----


def response_velocity(
    model: StreamerModel, latents: Latents, sigma: Tensor, kv: State, attention_inputs: AttentionInputs
) -> Latents:
    """One pass over the noisy latents of this unit at noise level sigma (B,): their velocities (eq. 3)."""
    audio, video = latents["audio"], latents["video"]
    hidden = model.step(model.embed_response(audio, video, sigma), kv, attention_inputs)
    return dict(zip(("audio", "video"), model.velocities(hidden, audio, video, sigma), strict=True))


def commit_response(model: StreamerModel, latents: Latents, kv: State, attention_inputs: AttentionInputs) -> None:
    """One clean pass (sigma = 0) over the unit's latents, whose K/V is what later units see of them."""
    sigma = latents["audio"].new_zeros(len(latents["audio"]))
    model.step(model.embed_response(latents["audio"], latents["video"], sigma), kv, attention_inputs)


# ---- all of it ----


class GeneratedUnit(NamedTuple):
    """language ids (B, 1 + S), and clean latents {"audio": (B, tokens, dim), "video": ...}."""

    language: Tensor
    latents: Latents


def generate_unit(
    model: StreamerModel,
    solver: Solver,
    user: Tensor,
    noise: Latents,
    kv: State,
    cache_spec: CacheSpec,
    num_steps: int,
    *,
    draft: Tensor | None = None,
    told: Tensor | None = None,
    gumbel: Tensor | None = None,
) -> tuple[GeneratedUnit, State]:
    """One whole unit on one state, thinker and performer in turn: what is said, sounds and looks; and the next state.

    With commit delay 1 the mask hides the newest response from the next context, wherever it was computed.

    Args:
        user: (B, U, D), of `embed_user`. noise: (B, tokens, dim) by name. kv: written to in place.
        draft: ids (B, 1 + S) to decode from; or
        told: the unit's language, which is then not decoded.

    Raises:
        ValueError: not exactly one of `draft` and `told` is given.
    """
    if draft is not None and told is None:
        context = context_pass(model, user, draft, kv, cache_spec)
        drafted = choose_language(model, context.before_language, 0, gumbel)
        language = settle_language(model, drafted, draft, kv, cache_spec, gumbel)
    elif told is not None and draft is None:
        language = told
        context_pass(model, user, told, kv, cache_spec)
    else:
        raise ValueError("generate_unit takes either a draft to decode from or the language it is told")
    attention_inputs = model.attention_inputs(kv, cache_spec, model.layout.response)
    latents = solver.solve(lambda z, sigma: response_velocity(model, z, sigma, kv, attention_inputs), noise, num_steps)
    commit_response(model, latents, kv, attention_inputs)
    return GeneratedUnit(language, latents), advance(kv)
