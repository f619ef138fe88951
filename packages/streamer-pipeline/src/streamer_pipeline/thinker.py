"""The thinker: perceives, predicts language, keeps the history, renders. Everything but the solver.

Report, sections 1 and 2.4; DESIGN section 6. A thinker holds no stream: `state` goes in and comes out.

Shape legend: B session, D hidden width, S text slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from causal_vae import State, StreamingModule, map_state
from streamer_core import (
    KVLayout,
    Reference,
    StreamerModel,
    append_tail,
    init_kv_state,
    read_tail,
    start_history,
    unpack_audio,
    unpack_video,
)
from torch import Tensor, nn

Renderer = Callable[[Tensor, State | None], tuple[Tensor, State]]


def dtype_of(part: nn.Module | Renderer) -> torch.dtype:
    """What a part computes in; parts of one pipeline may differ. A renderer may be a VAE's method, or a function."""
    module = getattr(part, "__self__", part)
    parameters = module.parameters() if isinstance(module, nn.Module) else ()
    return next((parameter.dtype for parameter in parameters), torch.float32)


class Thinker:
    """Encoders, the short token-causal pass over language slots, key-value construction, and decoders.

    Args:
        audio_renderer, video_renderer: (latents, state) -> (media, state): a causal decoder, or a VAE's own `decode`.
    """

    stages = ("perceive", "hear", "revise", "context_tail", "receive", "render")

    def __init__(
        self,
        streamer: StreamerModel,
        audio_encoder: StreamingModule,
        video_encoder: StreamingModule,
        audio_renderer: Renderer,
        video_renderer: Renderer,
    ) -> None:
        self.streamer, self.layout = streamer, streamer.layout
        self.audio_encoder, self.video_encoder = audio_encoder, video_encoder
        self.audio_renderer, self.video_renderer = audio_renderer, video_renderer

    def compile(self, **options: Any) -> None:
        """Compile each stage as one graph with `torch.compile`'s options. Shapes are static: one per session size."""
        for name in self.stages:
            setattr(self, name, torch.compile(getattr(self, name), fullgraph=True, dynamic=False, **options))

    def prefill(self, prompt_ids: Tensor, reference: Reference | None = None) -> Tensor:
        """K/V of a prompt (B, P) and its reference (B, 2, L, H, P', D): what every session of it begins with."""
        batch, weight = len(prompt_ids), self.streamer.lm_head.weight
        length = prompt_ids.shape[1]
        if reference is not None:
            length += reference.audio.shape[1] * self.layout.num_response_tokens
        kv_layout = KVLayout(self.layout, length, 0, 0)
        kv = self.streamer.prefill(
            prompt_ids, init_kv_state(kv_layout, batch, weight.device, weight.dtype), kv_layout, reference
        )
        return read_tail(kv, torch.arange(length, device=weight.device).expand(batch, -1))

    def start(self, prompt_tail: Tensor, kv_layout: KVLayout, user_size: tuple[int, int]) -> State:
        """State of new sessions from the prompt's K/V, as `prefill` returned it."""
        return {"kv": start_history(prompt_tail, kv_layout), **self.init_state(len(prompt_tail), user_size)}

    def init_state(self, batch: int, user_size: tuple[int, int]) -> State:
        """All but the history of `batch` new sessions, for pictures of the user of `user_size` (H, W)."""
        config, weight = self.streamer.config, self.streamer.lm_head.weight
        sound = batch, config.audio_latent_channels, config.audio_latents_per_unit
        picture = batch, config.video_latent_channels, 1, config.video_latent_height, config.video_latent_width
        silence = weight.new_zeros(sound, dtype=dtype_of(self.audio_renderer))
        darkness = weight.new_zeros(picture, dtype=dtype_of(self.video_renderer))
        nothing_said = torch.full(
            (batch, self.layout.num_language_slots), config.state_token_ids[0], device=weight.device
        )
        return {
            "draft": self.draft(nothing_said),
            "audio_encoder": self.audio_encoder.init_state(batch),
            "video_encoder": self.video_encoder.init_state(batch, height=user_size[0], width=user_size[1]),
            "audio_decoder": map_state(torch.zeros_like, self.audio_renderer(silence, None)[1]),
            "video_decoder": map_state(torch.zeros_like, self.video_renderer(darkness, None)[1]),
        }

    def perceive(self, audio: Tensor, video: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """User audio (B, 1, 3840) and video (B, 3, 4, H, W) -> audio tokens, video tokens, next state."""
        audio, video = audio.to(dtype_of(self.audio_encoder)), video.to(dtype_of(self.video_encoder))
        audio_tokens, audio_state = self.audio_encoder(audio, state["audio_encoder"])
        video_tokens, video_state = self.video_encoder(video, state["video_encoder"])
        return audio_tokens, video_tokens, {**state, "audio_encoder": audio_state, "video_encoder": video_state}

    def hear(
        self,
        text_ids: Tensor,
        audio_tokens: Tensor,
        video_tokens: Tensor,
        state: State,
        kv_layout: KVLayout,
        gumbel: Tensor | None = None,
    ) -> Tensor:
        """The pass over the context of this unit, its language as drafted: ids (B, 1 + S) that follow from it.

        Args:
            text_ids: (B, user text slots), pads where nothing was typed.
            gumbel: (B, 1 + S, V) scaled Gumbel noise to sample with, or None for the most likely token.
        """
        streamer, layout = self.streamer, self.layout
        user = streamer.embed_user(text_ids, audio_tokens.to(streamer.dtype), video_tokens.to(streamer.dtype))
        language = streamer.embed_language(state["draft"], layout.language)
        geometry = streamer.geometry(state["kv"], kv_layout, layout.context)
        hidden = streamer.step(torch.cat([user, language], dim=1), state["kv"], geometry)
        return self.choose(hidden[:, layout.language.start - 1 : -1], 0, gumbel)

    def speak(self, chosen: Tensor, state: State, kv_layout: KVLayout, gumbel: Tensor | None = None) -> Tensor:
        """The language of this unit, each slot chosen from those before it: ids (B, 1 + S).

        What `hear` chose is right as far as it agrees with the draft, and one slot further. The slots from there on
        are passed over again with the choice as the draft, until nothing changes (parallel decoding by Jacobi
        iteration, Santilli et al. 2023). A unit like the one before needs no pass at all; none needs more than one
        for each slot, and the result is that of one pass for each slot.

        Args:
            chosen, gumbel: of `hear`.
        """
        draft = state["draft"]
        while not torch.equal(chosen, draft):
            first = int((chosen != draft).any(dim=0).int().argmax())
            later = self.revise(chosen, first, state, kv_layout, gumbel)
            chosen, draft = torch.cat([chosen[:, : first + 1], later], dim=1), chosen
        return chosen

    def revise(
        self, draft: Tensor, first: int, state: State, kv_layout: KVLayout, gumbel: Tensor | None = None
    ) -> Tensor:
        """Pass over the language slots from `first` on, as drafted (B, 1 + S): ids of the slots after it."""
        region = slice(self.layout.language.start + first, self.layout.language.stop)
        embeddings = self.streamer.embed_language(draft[:, first:], region)
        geometry = self.streamer.geometry(state["kv"], kv_layout, region)
        hidden = self.streamer.step(embeddings, state["kv"], geometry)
        return self.choose(hidden[:, :-1], first + 1, gumbel)

    def choose(self, hidden: Tensor, first: int, gumbel: Tensor | None) -> Tensor:
        """Ids (B, T) of the language slots from `first` on, from the hidden states (B, T, D) of the tokens before."""
        states = torch.tensor(self.streamer.config.state_token_ids, device=hidden.device)
        logits = self.streamer.lm_head(hidden)
        if gumbel is not None:
            logits = logits + gumbel[:, first : first + logits.shape[1]]
        words = logits.index_fill(2, states, float("-inf")).argmax(dim=-1)
        if first > 0:
            return words
        # The state slot says one of the states, whatever else is in the vocabulary.
        return torch.cat([states[logits[:, :1, states].argmax(dim=-1)], words[:, 1:]], dim=1)

    def draft(self, chosen: Tensor) -> Tensor:
        """What the next unit most likely says: the same state, and no word."""
        return torch.cat([chosen[:, :1], torch.full_like(chosen[:, 1:], self.streamer.config.pad_token_id)], dim=1)

    def context_tail(self, state: State, kv_layout: KVLayout) -> Tensor:
        """The K/V of context(k), packed, as the performer needs it: valid after `speak`."""
        kv = state["kv"]
        return read_tail(kv, kv_layout.slots(kv["unit"], self.layout.context))

    def receive(self, response_tail: Tensor, unit: Tensor, state: State, kv_layout: KVLayout) -> None:
        """Append the K/V of y_unit (B,), computed by the performer's clean pass, to the history, in place."""
        append_tail(state["kv"], kv_layout.slots(unit, self.layout.response), response_tail)

    def render(self, latents: dict[str, Tensor], state: State) -> tuple[Tensor, Tensor, State]:
        """Packed clean latents of one unit -> audio (B, 1, 3840), video (B, 3, 4, H, W), next state."""
        config = self.streamer.config
        sound, picture = (
            unpack_audio(latents["audio"][:, None], config),
            unpack_video(latents["video"][:, None], config),
        )
        sound, picture = sound.to(dtype_of(self.audio_renderer)), picture.to(dtype_of(self.video_renderer))
        audio, audio_state = self.audio_renderer(sound, state["audio_decoder"])
        video, video_state = self.video_renderer(picture, state["video_decoder"])
        state = {**state, "audio_decoder": audio_state, "video_decoder": video_state}
        return audio.clamp(-1, 1), video.clamp(-1, 1), state
