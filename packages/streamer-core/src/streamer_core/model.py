"""The multi-stream model: six streams of a conversation in, language logits and latent velocities out.

One training forward over a whole sequence and one incremental path over a key-value state; both read `UnitLayout`.

Shape legend: B session, K units, N noisy copies, T tokens, S key slots, V vocabulary, D hidden width.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, cast

import torch
from causal_vae import CheckedLoading, State, StreamSpec, execution_device
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .cache import CacheSpec
from .config import StreamerConfig
from .families.language_models import load_language_model
from .layout import UnitLayout
from .masks import group_rows, training_mask
from .scheduler import FlowMatchScheduler
from .transformer import AttentionInputs, StreamerTransformer, check_table


class NoiseLevelEmbedding(nn.Module):
    """Sinusoidal features of the noise level, then an MLP: (...) -> (..., D). Added to latent tokens at the input."""

    def __init__(self, dim: int, num_frequencies: int = 32) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.mlp = nn.Sequential(nn.Linear(2 * num_frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, sigma: Tensor) -> Tensor:
        frequencies = torch.exp(torch.linspace(0, math.log(400), self.num_frequencies, device=sigma.device))
        angles = sigma[..., None].float() * frequencies
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1).to(cast(Tensor, self.mlp[0].weight).dtype))


@dataclass(frozen=True)
class UnitStreams:
    """Both sides of K units, aligned so that `agent_*[k]` answers `user_*[k]` (already shifted by response_delay).

    user_text (B, K, slots) ids, user_audio and user_video (B, K, tokens, perception_dim), state (B, K) ids,
    agent_text (B, K, slots) ids, audio (B, K, tokens, dim) and video (B, K, tokens, dim) packed clean latents. Both are
    None where an agent is trained on language alone; such a sequence holds context tokens only.
    """

    user_text: Tensor
    user_audio: Tensor
    user_video: Tensor
    state: Tensor
    agent_text: Tensor
    audio: Tensor | None = None
    video: Tensor | None = None


@dataclass(frozen=True)
class Reference:
    """What the agent looks and sounds like, as R units of it that the prompt holds (third report, the world).

    audio (B, R, tokens, dim) and video (B, R, tokens, dim): packed clean latents, as in `UnitStreams`.
    """

    audio: Tensor
    video: Tensor


@dataclass(frozen=True)
class StreamerOutput:
    """logits (B, K, 1 + text slots, V) for the state and text slots; velocities (B, N, K, tokens, dim) or None; and
    heard_logits (B, K, text slots, V) of a model that writes down what the user says."""

    logits: Tensor
    audio_velocity: Tensor | None = None
    video_velocity: Tensor | None = None
    heard_logits: Tensor | None = None


class StreamerModel(CheckedLoading, PreTrainedModel):
    """ONE Transformer that reads the user's streams and predicts the agent's language and latents (report, eq. 1-3)."""

    config_class = StreamerConfig
    base_model_prefix = "model"
    main_input_name = "streams"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderLayer"]
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: StreamerConfig) -> None:
        super().__init__(config)
        c = config
        self.layout = UnitLayout(config)
        self.model = StreamerTransformer(config)
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        self.user_audio_in = nn.Linear(c.perception_dim, c.hidden_size)
        self.user_video_in = nn.Linear(c.perception_dim, c.hidden_size)
        self.audio_in = nn.Linear(c.audio_token_dim, c.hidden_size)
        self.video_in = nn.Linear(c.video_token_dim, c.hidden_size)
        self.slot_embedding = nn.Embedding(self.layout.num_tokens, c.hidden_size)
        self.noise_level = NoiseLevelEmbedding(c.hidden_size)
        self.audio_out = nn.Linear(c.hidden_size, c.audio_token_dim)
        self.video_out = nn.Linear(c.hidden_size, c.video_token_dim)
        if c.hears_words:
            self.heard_out = nn.Linear(c.user_audio_tokens * c.hidden_size, c.agent_text_slots * c.hidden_size)
        self.post_init()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "lm_head":
            check_table(self.config, name, value)
        super().__setattr__(name, value)

    @property
    def device(self) -> torch.device:
        """Where it computes, whether or not its weights wait elsewhere."""
        return execution_device(self)

    @property
    def stream_spec(self) -> StreamSpec:
        c = self.config
        return StreamSpec(
            user_audio_tokens=c.user_audio_tokens,
            user_video_tokens=c.user_video_tokens,
            perception_dim=c.perception_dim,
            audio_latents_per_unit=c.audio_latents_per_unit,
            audio_latent_channels=c.audio_latent_channels,
            video_latent_channels=c.video_latent_channels,
            video_latent_height=c.video_latent_height,
            video_latent_width=c.video_latent_width,
            vocab_size=c.vocab_size,
        )

    def _init_weights(self, module: nn.Module) -> None:
        """Linear layers by fan-in: at small widths a language model's fixed range would start latents near zero."""
        if isinstance(module, nn.Linear):
            std = self.config.initializer_range if module is self.lm_head else module.in_features**-0.5
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)

    @classmethod
    def from_language_model(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        tokenizer: PreTrainedTokenizerFast | None = None,
        gguf_file: str | None = None,
        **kwargs: Any,
    ) -> StreamerModel:
        """Start from the weights of a public language model: Qwen3, Qwen2 and 2.5, Llama, SmolLM2, SmolLM3.

        Text behaviour is kept exactly (`text_forward` gives that model's logits); only the parts that a language model
        does not have are new. Where its table of words has no rows to spare for the control tokens, it grows: the
        logits of all other words stay.

        Args:
            pretrained_model_name_or_path: folder or hub id, of safetensors or GGUF, which transformers dequantises.
            tokenizer: the words of this model, with the control tokens or still without; default: what stands beside
                the weights. Control ids are those that `StreamerTokenizer.extend` gives, unless `pad_token_id` and
                `state_token_ids` name them.
            gguf_file: the file to read; default: the only one of a folder without config.json.
            kwargs: fields of `StreamerConfig`, and options of transformers' `from_pretrained`: dtype, revision, token,
                cache_dir, local_files_only, device_map ...

        Raises:
            TypeError: a keyword is neither.
            ValueError: the source is of another family, uses a sliding window, unknown rotary positions or another
                activation, has no tokenizer, or its weights do not fit.
        """
        return load_language_model(cls, pretrained_model_name_or_path, tokenizer, gguf_file, **kwargs)

    @classmethod
    def from_qwen3(cls, *args: Any, **kwargs: Any) -> StreamerModel:
        """`from_language_model`, by its older name."""
        return cls.from_language_model(*args, **kwargs)

    def add_heard_words(self) -> None:
        """Give a model that has none the head that writes down what the user says, untrained."""
        c = self.config
        if not c.hears_words:
            c.hears_words = True
            sizes = c.user_audio_tokens * c.hidden_size, c.agent_text_slots * c.hidden_size
            self.heard_out = nn.Linear(*sizes).to(self.lm_head.weight)
            self._init_weights(self.heard_out)

    @apply_forward_hook
    def text_forward(self, input_ids: Tensor) -> Tensor:
        """A plain causal language model: ids (B, T) -> logits (B, T, V). With a public model's weights, its logits."""
        batch, length = input_ids.shape
        positions = torch.arange(length, device=input_ids.device).expand(batch, 3, length)
        mask = torch.ones(1, length, length, dtype=torch.bool, device=input_ids.device).tril()
        embeddings = self.model.embed_tokens(input_ids)
        return self.lm_head(self.model(embeddings, self.model.attention_inputs(positions, mask, embeddings.dtype)))

    # ---- embeddings of one unit's tokens; every one takes and returns a leading (..., tokens, features) ----

    def _with_slots(self, embeddings: Tensor, region: slice) -> Tensor:
        # By a call and not by its weight, which may wait on a disk until the module is called.
        return embeddings + self.slot_embedding(self.layout.indices(region, embeddings.device))

    @apply_forward_hook
    def embed_user(self, text: Tensor, audio: Tensor, video: Tensor) -> Tensor:
        """User streams of a unit -> (..., user tokens, D)."""
        parts = [self.model.embed_tokens(text), self.user_audio_in(audio), self.user_video_in(video)]
        return self._with_slots(torch.cat(parts, dim=-2), self.layout.user)

    @apply_forward_hook
    def embed_language(self, ids: Tensor, region: slice) -> Tensor:
        """Language slots `region` with token ids (..., slots) -> (..., slots, D)."""
        return self._with_slots(self.model.embed_tokens(ids), region)

    @apply_forward_hook
    def embed_response(self, audio: Tensor, video: Tensor, sigma: Tensor, video_sigma: Tensor | None = None) -> Tensor:
        """Packed latents (..., tokens, dim) at noise level sigma (...) -> (..., response tokens, D).

        `video_sigma` is given where the picture has another noise level than the sound.
        """
        levels = [self.noise_level(sigma)[..., None, :]] * 2
        if video_sigma is not None:
            levels[1] = self.noise_level(video_sigma)[..., None, :]
        latents = [self.audio_in(audio) + levels[0], self.video_in(video) + levels[1]]
        return self._with_slots(torch.cat(latents, dim=-2), self.layout.response)

    @apply_forward_hook
    def embed_prompt(self, prompt_ids: Tensor, reference: Reference | None = None) -> Tensor:
        """Words (B, P), then the reference's units as clean responses stand in history: (B, P', D)."""
        words = self.model.embed_tokens(prompt_ids)
        if reference is None:
            return words
        clean = words.new_zeros(reference.audio.shape[:2])
        return torch.cat([words, self.embed_response(reference.audio, reference.video, clean).flatten(1, 2)], dim=1)

    @apply_forward_hook
    def heard_logits(self, hidden: Tensor) -> Tensor:
        """Final hidden states (..., A, D) of the user's audio tokens -> (..., text slots, V): what the user says."""
        return self.lm_head(self.heard_out(hidden.flatten(-2)).unflatten(-1, (-1, self.config.hidden_size)))

    @apply_forward_hook
    def velocities(
        self, hidden: Tensor, audio: Tensor, video: Tensor, sigma: Tensor, video_sigma: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Final hidden states of response tokens, noisy latents and sigma -> velocities of audio and video (eq. 3)."""
        num_audio = self.config.agent_audio_tokens
        predictions = self.audio_out(hidden[..., :num_audio, :]), self.video_out(hidden[..., num_audio:, :])
        if self.config.prediction_type == "velocity":
            return predictions
        levels = sigma, sigma if video_sigma is None else video_sigma
        audio_velocity, video_velocity = (
            FlowMatchScheduler.velocity_from_sample(noisy, sample, level, self.config.min_sigma)
            for noisy, sample, level in zip((audio, video), predictions, levels, strict=True)
        )
        return audio_velocity, video_velocity

    # ---- training: whole sequences ----

    def forward(
        self,
        streams: UnitStreams,
        noisy_audio: Tensor | None = None,
        noisy_video: Tensor | None = None,
        sigma: Tensor | None = None,
        prompt_ids: Tensor | None = None,
        clock_offset: Tensor | None = None,
        video_sigma: Tensor | None = None,
        reference: Reference | None = None,
    ) -> StreamerOutput:
        """Every unit at once: clean tokens as history, and N noisy copies of each response to denoise.

        Args:
            streams: clean streams; `streams.audio` and `.video` are the history that later units see.
            noisy_audio, noisy_video: (B, N, K, tokens, dim) at noise level sigma (B, N, K), one level for both. All
                None when `streams` is language alone.
            prompt_ids: (B, P) tokens before unit 0, or None.
            clock_offset: (B,) extra positions between prompt and unit 0, so that far clocks are not new at serving.
            video_sigma: (B, N, K), the picture's own noise level where it differs from the sound's.
            reference: the rest of the prompt, after its words.

        Raises:
            ValueError: `streams` holds sound and picture, but a noisy copy or its level is missing.
        """
        layout, device = self.layout, streams.state.device
        batch, num_units = streams.state.shape
        clean = [
            self.embed_user(streams.user_text, streams.user_audio, streams.user_video),
            self.embed_language(torch.cat([streams.state[..., None], streams.agent_text], -1), layout.language),
        ]
        region, num_copies = layout.context, 0
        if streams.audio is not None:
            if noisy_audio is None or noisy_video is None or sigma is None:
                raise ValueError("streams that hold sound and picture take noisy_audio, noisy_video and sigma, too")
            region, num_copies = slice(0, layout.num_tokens), sigma.shape[1]
            clean.append(self.embed_response(streams.audio, streams.video, sigma.new_zeros(batch, num_units)))
        embeddings = torch.cat(clean, dim=2).flatten(1, 2)  # (B, K * tokens per unit, D)
        if prompt_ids is None:
            prompt_ids = streams.state.new_empty(batch, 0)
        prompt = self.embed_prompt(prompt_ids, reference)
        prompt_length = prompt.shape[1]
        start = torch.full((batch,), prompt_length, device=device)
        if clock_offset is not None:
            start = start + clock_offset
        all_units = torch.arange(num_units, device=device).expand(batch, -1)
        places = [layout.positions(all_units, start, region)]
        if num_copies:
            noisy = self.embed_response(noisy_audio, noisy_video, sigma, video_sigma)
            embeddings = torch.cat([embeddings, noisy.flatten(1, 3)], dim=1)
            places += [layout.positions(all_units, start, layout.response)] * num_copies
        embeddings = torch.cat([prompt, embeddings], dim=1)
        places.insert(0, torch.arange(prompt_length, device=device).expand(batch, 3, -1))
        sequence = (layout, num_units, num_copies, prompt_length, device, region)
        mask = training_mask(*sequence)
        positions = torch.cat(places, dim=2)
        if device.type == "cpu":
            order, row_counts = group_rows(*sequence)
            positions, mask = positions[:, :, order], mask[order][:, order]
            attention_inputs = self.model.attention_inputs(positions, mask[None], embeddings.dtype, row_counts)
            hidden = self.model(embeddings[:, order], attention_inputs)[:, order.argsort()]
        else:
            # One large product is faster there than many small ones, whose sizes the host would have to wait for.
            hidden = self.model(embeddings, self.model.attention_inputs(positions, mask[None], embeddings.dtype))
        hidden = hidden[:, prompt_length:]

        num_clean = num_units * region.stop
        language = hidden[:, :num_clean].unflatten(1, (num_units, -1))
        first = layout.language.start - 1  # the last user token predicts the state slot, each slot the next one
        logits = self.lm_head(language[:, :, first : first + layout.num_language_slots])
        heard = self.heard_logits(language[:, :, layout.user_audio]) if self.config.hears_words else None
        if not num_copies:
            return StreamerOutput(logits, heard_logits=heard)
        responses = hidden[:, num_clean:].unflatten(1, (num_copies, num_units, -1))
        audio_velocity, video_velocity = self.velocities(responses, noisy_audio, noisy_video, sigma, video_sigma)
        return StreamerOutput(logits, audio_velocity, video_velocity, heard)

    # ---- serving: one unit, against the key-value state ----

    @apply_forward_hook
    def attention_inputs(self, state: State, cache_spec: CacheSpec, region: slice) -> AttentionInputs:
        """Where the tokens `region` of each session's current unit stand, for every pass over them.

        Args:
            state: from `init_kv_state`; `state["unit"]` says which unit each session is in.
        """
        unit, prompt_length = state["unit"], state["prompt_length"]
        return self.model.attention_inputs(
            self.layout.positions(unit, prompt_length, region),
            cache_spec.mask(unit, prompt_length, region),
            state["keys"].dtype,
            slots=cache_spec.slots(unit, region),
        )

    @apply_forward_hook
    def step(self, embeddings: Tensor, state: State, attention_inputs: AttentionInputs) -> Tensor:
        """One pass over tokens (B, T, D) of each session's current unit: final hidden states (B, T, D).

        Their K/V is written in place.
        """
        return self.model(embeddings, attention_inputs, (state["keys"], state["values"]))

    def prefill(
        self, prompt_ids: Tensor, state: State, cache_spec: CacheSpec, reference: Reference | None = None
    ) -> State:
        """Write a prompt (B, P) into an empty state's sink; it is seen by every later token and never evicted.

        Args:
            reference: the rest of the prompt, after its words.

        Raises:
            ValueError: the prompt is longer than `cache_spec.prompt_capacity`.
        """
        prompt = self.embed_prompt(prompt_ids, reference)
        batch, length, _ = prompt.shape
        if length > cache_spec.prompt_capacity:
            raise ValueError(f"the prompt has {length} tokens; this session holds {cache_spec.prompt_capacity}")
        if length:
            index = torch.arange(length, device=prompt.device)
            mask = torch.arange(cache_spec.num_slots, device=prompt.device) <= index[:, None]
            attention_inputs = self.model.attention_inputs(
                index.expand(batch, 3, -1), mask[None], state["keys"].dtype, slots=index.expand(batch, -1)
            )
            self.step(prompt, state, attention_inputs)
        return {**state, "prompt_length": torch.full_like(state["prompt_length"], length)}
