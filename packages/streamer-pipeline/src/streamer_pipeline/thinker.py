"""The thinker: perceives, predicts language, keeps the history, renders. Everything but the solver.

Report, sections 1 and 2.4; DESIGN section 6. A thinker holds no stream: `state` goes in and comes out.

Shape legend: B session, D hidden width, S text slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from causal_vae import State, StreamingModule, index_state, map_state, stack_states
from streamer_core import (
    CacheSpec,
    Reference,
    StreamerModel,
    choose_language,
    context_pass,
    draft_language,
    init_kv_state,
    read_kv,
    settle_language,
    start_history,
    unpack_audio,
    unpack_video,
    write_down,
    write_kv,
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

    stages = ("perceive", "context_pass", "settle_language", "context_kv", "receive", "render_audio", "render_video")

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
        self._is_compiled = False

    @property
    def works_by_row(self) -> bool:
        """Whether rows are worth telling apart inside a batch: where a look at values costs nothing and a kernel fills
        the processor with one row, on the CPU. Elsewhere, and in a compiled graph, all rows go through every stage."""
        return self.streamer.device.type == "cpu" and not self._is_compiled

    def compile(self, **options: Any) -> None:
        """Compile each stage as one graph with `torch.compile`'s options. Shapes are static: one per batch size."""
        for name in self.stages:
            setattr(self, name, torch.compile(getattr(self, name), fullgraph=True, dynamic=False, **options))
        self._is_compiled = True

    def prefill(self, prompt_ids: Tensor, reference: Reference | None = None) -> Tensor:
        """K/V of a prompt (B, P) and its reference (B, 2, L, H, P', D): what every session of it begins with."""
        batch, device = len(prompt_ids), self.streamer.device
        length = prompt_ids.shape[1]
        if reference is not None:
            length += reference.audio.shape[1] * self.layout.num_response_tokens
        cache_spec = CacheSpec(self.layout, length, 0, 0)
        kv = self.streamer.prefill(
            prompt_ids, init_kv_state(cache_spec, batch, device, self.streamer.dtype), cache_spec, reference
        )
        return read_kv(kv, torch.arange(length, device=device).expand(batch, -1))

    def start(self, prompt_kv: Tensor, cache_spec: CacheSpec, user_size: tuple[int, int]) -> State:
        """State of new sessions from the prompt's K/V, as `prefill` returned it."""
        return {"kv": start_history(prompt_kv, cache_spec), **self.init_state(len(prompt_kv), user_size)}

    def init_state(self, batch: int, user_size: tuple[int, int]) -> State:
        """All but the history of `batch` new sessions, for pictures of the user of `user_size` (H, W)."""
        config, device = self.streamer.config, self.streamer.device
        sound = batch, config.audio_latent_channels, config.audio_latents_per_unit
        picture = batch, config.video_latent_channels, 1, config.video_latent_height, config.video_latent_width
        silence = torch.zeros(sound, dtype=dtype_of(self.audio_renderer), device=device)
        darkness = torch.zeros(picture, dtype=dtype_of(self.video_renderer), device=device)
        nothing_said = torch.full((batch, self.layout.num_language_slots), config.state_token_ids[0], device=device)
        return {
            "draft": draft_language(self.streamer, nothing_said),
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

    def context_pass(
        self,
        text_ids: Tensor,
        audio_tokens: Tensor,
        video_tokens: Tensor,
        state: State,
        cache_spec: CacheSpec,
        gumbel: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The pass over the context of this unit, its language as drafted: ids (B, 1 + S) that follow from it, and
        ids (B, S) of what the user says, (B, 0) where no head writes it down.

        Args:
            text_ids: (B, user text slots), pads where nothing was typed.
            gumbel: (B, 1 + S, V) scaled Gumbel noise to sample with, or None for the most likely token.
        """
        streamer = self.streamer
        user = streamer.embed_user(text_ids, audio_tokens.to(streamer.dtype), video_tokens.to(streamer.dtype))
        context = context_pass(streamer, user, state["draft"], state["kv"], cache_spec)
        return choose_language(streamer, context.before_language, 0, gumbel), write_down(streamer, context)

    def settle_language(
        self,
        chosen: Tensor,
        state: State,
        cache_spec: CacheSpec,
        gumbel: Tensor | None = None,
        verified_rows: Sequence[int] | None = None,
    ) -> tuple[Tensor, State]:
        """What this unit says, each slot chosen from those before it: ids (B, 1 + S), and next state.

        Args:
            chosen, gumbel: of `context_pass`. verified_rows: of `streamer_core.settle_language`.
        """
        ids = settle_language(self.streamer, chosen, state["draft"], state["kv"], cache_spec, gumbel, verified_rows)
        return ids, {**state, "draft": draft_language(self.streamer, ids)}

    def context_kv(self, state: State, cache_spec: CacheSpec) -> Tensor:
        """The K/V of context(k), packed, as the performer needs it: valid after `settle_language`."""
        kv = state["kv"]
        return read_kv(kv, cache_spec.slots(kv["unit"], self.layout.context))

    def receive(self, response_kv: Tensor, unit: Tensor, state: State, cache_spec: CacheSpec) -> None:
        """Append the K/V of y_unit (B,), computed by the performer's clean pass, to the history, in place."""
        write_kv(state["kv"], cache_spec.slots(unit, self.layout.response), response_kv)

    def render(
        self, latents: dict[str, Tensor], state: State, rows: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | Sequence[Tensor | None], State]:
        """Packed clean latents of one unit -> audio (B, 1, 3840), video of each row (3, 4, H, W), next state.

        Args:
            rows: where `works_by_row`, pictures are rendered one after the other, because one fills the processor's
                caches, and these only; the other rows have none, and keep the decoder's state.
        """
        audio, audio_state = self.render_audio(latents["audio"], state["audio_decoder"])
        video: Tensor | Sequence[Tensor | None]
        if rows is None or len(audio) == 1:
            video, video_state = self.render_video(latents["video"], state["video_decoder"])
        else:
            pictures: list[Tensor | None] = [None] * len(audio)
            states = [index_state(state["video_decoder"], row) for row in range(len(audio))]
            for row in rows:
                picture, states[row] = self.render_video(latents["video"][row : row + 1], states[row])
                pictures[row] = picture[0]
            video, video_state = pictures, stack_states(states)
        return audio, video, {**state, "audio_decoder": audio_state, "video_decoder": video_state}

    def render_audio(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, tokens, dim) -> (B, 1, 3840) in [-1, 1], next state of the decoder."""
        sound = unpack_audio(latents[:, None], self.streamer.config).to(dtype_of(self.audio_renderer))
        audio, state = self.audio_renderer(sound, state)
        return audio.clamp(-1, 1), state

    def render_video(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, tokens, dim) -> (B, 3, 4, H, W) in [-1, 1], next state of the decoder."""
        picture = unpack_video(latents[:, None], self.streamer.config).to(dtype_of(self.video_renderer))
        video, state = self.video_renderer(picture, state)
        return video.clamp(-1, 1), state
