"""The thinker: perceives, predicts language, keeps the history, renders. Everything but the solver.

Report, sections 1 and 2.4; DESIGN section 6. A thinker holds no stream: `state` goes in and comes out.

Shape legend: B session, D hidden width, S text slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from causal_vae import State, StreamingModule, map_state
from streamer_core import KVLayout, StreamerModel, append_tail, init_kv_state, read_tail, unpack_audio, unpack_video
from torch import Tensor

Renderer = Callable[[Tensor, State | None], tuple[Tensor, State]]


@dataclass(frozen=True)
class Thought:
    """What the thinker made of one user unit: state ids (B,), text ids (B, S), and the K/V of context(k) to send."""

    state_ids: Tensor
    text_ids: Tensor
    context_tail: Tensor


class Thinker:
    """Encoders, the short token-causal pass over language slots, key-value construction, and decoders.

    Args:
        audio_renderer, video_renderer: (latents, state) -> (media, state): a causal decoder, or a VAE's own `decode`.
    """

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

    def start(self, prompt_ids: Tensor, kv_layout: KVLayout, user_size: tuple[int, int]) -> tuple[State, Tensor]:
        """Prefill the prompt (B, P): (state of new sessions, the prompt's K/V, which the performer receives once)."""
        batch, length = prompt_ids.shape
        weight = self.streamer.lm_head.weight
        kv = init_kv_state(kv_layout, batch, weight.device, weight.dtype)
        kv = self.streamer.prefill(prompt_ids, kv, kv_layout)
        config = self.streamer.config
        _, audio_state = self.audio_renderer(
            weight.new_zeros(batch, config.audio_latent_channels, config.audio_latents_per_unit), None
        )
        grid = config.video_latent_height, config.video_latent_width
        _, video_state = self.video_renderer(weight.new_zeros(batch, config.video_latent_channels, 1, *grid), None)
        state = {
            "kv": kv,
            "audio_encoder": self.audio_encoder.init_state(batch),
            "video_encoder": self.video_encoder.init_state(batch, height=user_size[0], width=user_size[1]),
            "audio_decoder": map_state(torch.zeros_like, audio_state),
            "video_decoder": map_state(torch.zeros_like, video_state),
        }
        slots = torch.arange(length, device=prompt_ids.device).expand(batch, -1)
        return state, read_tail(kv, slots)

    def perceive(self, audio: Tensor, video: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """User audio (B, 1, 3840) and video (B, 3, 4, H, W) -> audio tokens, video tokens, next state."""
        audio_tokens, audio_state = self.audio_encoder(audio, state["audio_encoder"])
        video_tokens, video_state = self.video_encoder(video, state["video_encoder"])
        return audio_tokens, video_tokens, {**state, "audio_encoder": audio_state, "video_encoder": video_state}

    def think(
        self,
        text_ids: Tensor,
        audio_tokens: Tensor,
        video_tokens: Tensor,
        state: State,
        kv_layout: KVLayout,
        gumbel: Tensor | None = None,
    ) -> Thought:
        """Token-causal pass over context(k): the user's tokens, then each language slot from the one before.

        Args:
            text_ids: (B, user text slots), pads where nothing was typed.
            gumbel: (B, 1 + S, V) scaled Gumbel noise to sample with, or None for the most likely token.
        """
        streamer, layout, kv = self.streamer, self.layout, state["kv"]
        hidden = streamer.step(streamer.embed_user(text_ids, audio_tokens, video_tokens), kv, kv_layout, layout.user)
        states = torch.tensor(streamer.config.state_token_ids, device=hidden.device)
        chosen: list[Tensor] = []
        for slot in range(layout.num_language_slots):
            logits = streamer.lm_head(hidden[:, -1])
            if gumbel is not None:
                logits = logits + gumbel[:, slot]
            if slot == 0:  # the state slot says one of the states, whatever else is in the vocabulary
                chosen.append(states[logits[:, states].argmax(dim=-1)])
            else:
                chosen.append(logits.index_fill(1, states, float("-inf")).argmax(dim=-1))
            region = slice(layout.language.start + slot, layout.language.start + slot + 1)
            hidden = streamer.step(streamer.embed_language(chosen[-1][:, None], region), kv, kv_layout, region)
        tail = read_tail(kv, kv_layout.slots(kv["unit"], layout.context))
        return Thought(chosen[0], torch.stack(chosen[1:], dim=1), tail)

    def receive(self, response_tail: Tensor, unit: Tensor, state: State, kv_layout: KVLayout) -> None:
        """Append the K/V of y_unit (B,), computed by the performer's clean pass, to the history, in place."""
        append_tail(state["kv"], kv_layout.slots(unit, self.layout.response), response_tail)

    def render(self, latents: dict[str, Tensor], state: State) -> tuple[Tensor, Tensor, State]:
        """Packed clean latents of one unit -> audio (B, 1, 3840), video (B, 3, 4, H, W), next state."""
        config = self.streamer.config
        audio, audio_state = self.audio_renderer(
            unpack_audio(latents["audio"][:, None], config), state["audio_decoder"]
        )
        video, video_state = self.video_renderer(
            unpack_video(latents["video"][:, None], config), state["video_decoder"]
        )
        state = {**state, "audio_decoder": audio_state, "video_decoder": video_state}
        return audio.clamp(-1, 1), video.clamp(-1, 1), state
