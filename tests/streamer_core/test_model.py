"""The core's laws: training forward == incremental serving, Qwen3 parity, no trace of a denoising pass."""

import itertools
import shutil

import pytest
import torch
from duplex_world.public_stand_ins import save_qwen3
from streamer_core import (
    CacheSpec,
    StreamerConfig,
    StreamerModel,
    StreamerOutput,
    StreamerTokenizer,
    UnitStreams,
    advance,
    commit_response,
    context_pass,
    grow,
    init_kv_state,
    pack_audio,
    pack_video,
    preset,
    read_kv,
    response_velocity,
    streamer_loss,
    unpack_audio,
    unpack_video,
    write_kv,
)
from streamer_core.transformer import RotaryEmbedding, rotate
from transformers import AutoModel, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

WINDOWS = {"full": (None, None), "windows": (6, 3), "long context": (None, 2)}


def tiny_config(**overrides) -> StreamerConfig:
    fields = {
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "perception_dim": 8,
        "audio_latent_channels": 3,
        "video_latent_channels": 2,
        "video_latent_height": 2,
        "video_latent_width": 3,
        "video_patch_height": 1,
        "hears_words": True,
    }
    return StreamerConfig(**fields | overrides)


def tiny_model(**overrides) -> StreamerModel:
    torch.manual_seed(0)
    model = StreamerModel(tiny_config(**overrides)).eval()
    # Larger weights than at the start of training, so that a wrongly seen token would show.
    return model.requires_grad_(False)


def random_streams(config: StreamerConfig, batch: int, num_units: int) -> UnitStreams:
    c = config
    ids = lambda *shape: torch.randint(c.vocab_size, (batch, num_units, *shape))  # noqa: E731
    return UnitStreams(
        user_text=ids(c.user_text_slots),
        user_audio=torch.randn(batch, num_units, c.user_audio_tokens, c.perception_dim),
        user_video=torch.randn(batch, num_units, c.user_video_tokens, c.perception_dim),
        state=ids(),
        agent_text=ids(c.agent_text_slots),
        audio=torch.randn(batch, num_units, c.agent_audio_tokens, c.audio_token_dim),
        video=torch.randn(batch, num_units, c.agent_video_tokens, c.video_token_dim),
    )


def serve(model, streams, noisy_audio, noisy_video, sigma, prompt_ids, capacity_units=80):
    """Unit by unit through the passes that serve, told what is said: context, scratch pass, noisy pass, commit."""
    batch, num_units = streams.state.shape
    cache_spec = CacheSpec.for_policy(model.config, prompt_capacity=8, capacity_units=capacity_units)
    state = model.prefill(prompt_ids, init_kv_state(cache_spec, batch), cache_spec)
    logits, heard, velocities = [], [], []
    for k in range(num_units):
        user = model.embed_user(streams.user_text[:, k], streams.user_audio[:, k], streams.user_video[:, k])
        language = torch.cat([streams.state[:, k, None], streams.agent_text[:, k]], dim=1)
        context = context_pass(model, user, language, state, cache_spec)
        logits.append(model.lm_head(context.before_language))
        heard.append(model.heard_logits(context.user_audio))
        attention_inputs = model.attention_inputs(state, cache_spec, model.layout.response)
        clean = {"audio": streams.audio[:, k], "video": streams.video[:, k]}
        scratch = {name: torch.randn_like(z) for name, z in clean.items()}
        response_velocity(model, scratch, torch.ones(batch), state, attention_inputs)  # leaves no trace
        noisy = {"audio": noisy_audio[:, 0, k], "video": noisy_video[:, 0, k]}
        velocities.append(response_velocity(model, noisy, sigma[:, 0, k], state, attention_inputs))
        commit_response(model, clean, state, attention_inputs)
        if k == 20 and capacity_units < num_units:
            larger = cache_spec.with_room_for(num_units)
            state, cache_spec = grow(state, cache_spec, larger), larger
        state = advance(state)
    rendered = (torch.stack([v[name] for v in velocities], 1) for name in ("audio", "video"))
    return torch.stack(logits, 1), torch.stack(heard, 1), *rendered


@pytest.mark.parametrize(("delay", "windows"), itertools.product((0, 1), WINDOWS))
def test_training_forward_equals_serving_over_64_units(delay, windows):
    context_window, response_window = WINDOWS[windows]
    model = tiny_model(commit_delay=delay, context_window=context_window, response_window=response_window)
    num_units = 64
    streams = random_streams(model.config, 2, num_units)
    noisy_audio = torch.randn(2, 2, *streams.audio.shape[1:])
    noisy_video = torch.randn(2, 2, *streams.video.shape[1:])
    sigma = torch.rand(2, 2, num_units).clamp(min=0.1)
    prompt = torch.randint(40, (2, 5))
    whole = model(streams, noisy_audio, noisy_video, sigma, prompt)
    served = serve(model, streams, noisy_audio, noisy_video, sigma, prompt, capacity_units=32 if delay else 80)
    expected = whole.logits, whole.heard_logits, whole.audio_velocity[:, 0], whole.video_velocity[:, 0]
    for name, ours, theirs in zip(("logits", "heard", "audio", "video"), served, expected, strict=True):
        difference = (ours - theirs).abs().max().item()
        assert difference < 1e-5 * max(1, theirs.abs().max().item()), f"{name}: {difference:.1e}"


def test_context_does_not_see_what_is_not_committed():
    """Changing response k reaches context k + 1 with commit_delay 0, and context k + 2 first with 1."""
    for delay in (0, 1):
        model = tiny_model(commit_delay=delay, context_window=None, response_window=None)
        streams = random_streams(model.config, 1, 6)
        noise = torch.randn(1, 1, *streams.audio.shape[1:]), torch.randn(1, 1, *streams.video.shape[1:])
        sigma = torch.full((1, 1, 6), 0.5)
        before = model(streams, *noise, sigma).logits
        streams.audio[:, 2] += 1.0
        changed = (model(streams, *noise, sigma).logits - before).abs().amax(dim=(0, 2, 3)) > 1e-7
        assert changed.tolist() == [k >= 3 + delay for k in range(6)]


def test_packed_kv_carries_history_between_two_states():
    model = tiny_model(context_window=4, response_window=2)
    layout = model.layout
    cache_spec = CacheSpec.for_policy(model.config, prompt_capacity=4)
    first, second = init_kv_state(cache_spec, 2), init_kv_state(cache_spec, 2)
    for _ in range(7):  # past the rings' ends
        for region in (layout.context, layout.response):
            embeddings = torch.randn(2, region.stop - region.start, 32)
            model.step(embeddings, first, model.attention_inputs(first, cache_spec, region))
            slots = cache_spec.slots(first["unit"], region)
            write_kv(second, slots, read_kv(first, slots))
        first, second = advance(first), advance(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("tied", [False, True])
def test_qwen3_parity(tmp_path, tied):
    torch.manual_seed(0)
    source = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=12,
            tie_word_embeddings=tied,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        )
    ).eval()
    for parameter in source.parameters():  # norms that are not all ones, weights that matter
        parameter.data += 0.1 * torch.randn_like(parameter)
    source.save_pretrained(tmp_path)
    model = StreamerModel.from_qwen3(tmp_path, perception_dim=8, pad_token_id=0, state_token_ids=[1, 2]).eval()
    ids = torch.randint(60, (2, 50))
    with torch.no_grad():
        torch.testing.assert_close(model.text_forward(ids), source(ids).logits, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "ours")
    reloaded = AutoModel.from_pretrained(tmp_path / "ours").eval()
    assert isinstance(reloaded, StreamerModel)
    with torch.no_grad():
        assert torch.equal(reloaded.text_forward(ids), model.text_forward(ids))


def test_three_axes_are_those_of_qwen3_vl():
    config = tiny_config(head_dim=32, rope_theta=1e4, rope_sections=[6, 5, 5])
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    theirs = Qwen3VLTextRotaryEmbedding(Qwen3VLTextConfig(head_dim=32, rope_parameters=rope))
    positions = torch.randint(30, (2, 3, 7))
    cosine, signed_sine = RotaryEmbedding(config)(positions)
    expected = theirs(torch.zeros(2, 7, 1), positions.transpose(0, 1))
    torch.testing.assert_close(cosine[:, 0], expected[0], rtol=0, atol=2e-6)
    torch.testing.assert_close(signed_sine[:, 0].abs(), expected[1].abs(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("age", [10**6, 4 * 10**7, 10**9])
def test_attention_is_as_exact_after_months_as_at_once(age):
    """One tick is 40 ms: 4e7 of them are unit 10,000,000, after 18 days; 1e9 are more than a year."""
    query, key = torch.randn(2, 1, 2, 50, 32)
    axes = torch.randint(20, (1, 3, 50)), torch.randint(20, (1, 3, 50))
    rotary = RotaryEmbedding(tiny_config(head_dim=32, rope_theta=1e6))

    def scores(start: int) -> torch.Tensor:
        rotated = [rotate(x, *rotary(start + positions)) for x, positions in zip((query, key), axes, strict=True)]
        return rotated[0] @ rotated[1].transpose(2, 3) / 32**0.5

    torch.testing.assert_close(scores(age), scores(100), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return save_qwen3(tmp_path_factory.mktemp("qwen3"))


def test_control_ids_are_the_tokenizers(qwen3, tmp_path):
    """However it is told: beside the weights, given as it was published or with control tokens, or read again."""
    published = AutoTokenizer.from_pretrained(qwen3)
    extended = StreamerTokenizer.extend(published)
    extended.save_pretrained(tmp_path / "words")
    for tokenizer in (None, published, extended, StreamerTokenizer.from_pretrained(tmp_path / "words")):
        config = StreamerModel.from_qwen3(qwen3, tokenizer).config
        assert config.pad_token_id == extended.pad_token_id == len(published)
        assert dict(zip(config.state_names, config.state_token_ids, strict=True)) == extended.state_ids
    assert StreamerModel.from_qwen3(qwen3, state_token_ids=[5, 6]).config.state_token_ids == [5, 6]
    trained = StreamerTokenizer.train(["how are you"], vocab_size=300)
    assert StreamerModel.from_qwen3(qwen3, trained).config.pad_token_id == trained.pad_token_id
    shutil.copytree(qwen3, tmp_path / "mute", ignore=shutil.ignore_patterns("*token*", "vocab*", "merges*"))
    with pytest.raises(ValueError, match="has no tokenizer"):
        StreamerModel.from_qwen3(tmp_path / "mute")


def test_from_qwen3_takes_the_options_of_transformers(qwen3):
    for spelling in ({"dtype": "bfloat16"}, {"torch_dtype": torch.bfloat16}, {"dtype": "torch.bfloat16"}):
        model = StreamerModel.from_qwen3(qwen3, revision="main", token=False, local_files_only=True, **spelling)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    with pytest.raises(ValueError, match="float99"):
        StreamerModel.from_qwen3(qwen3, dtype="float99")
    with pytest.raises(TypeError, match="'revison'; did you mean 'revision'"):
        StreamerModel.from_qwen3(qwen3, revison="main")
    with pytest.raises(TypeError, match="'commit_dely'; did you mean 'commit_delay'"):
        StreamerModel.from_qwen3(qwen3, commit_dely=1)


def test_latents_pack_and_unpack():
    config = tiny_config(video_patch_height=2, audio_patch_size=2)
    audio, video = torch.randn(2, 3, 12), torch.randn(2, 2, 3, 2, 3)
    assert torch.equal(unpack_audio(pack_audio(audio, config), config), audio)
    assert torch.equal(unpack_video(pack_video(video, config), config), video)
    assert pack_video(video, config).shape == (2, 3, 3, 4)


def test_a_token_is_a_patch_of_neighbours():
    config = tiny_config(
        audio_patch_size=2, video_latent_height=4, video_latent_width=6, video_patch_height=2, video_patch_width=3
    )
    audio, video = torch.randn(1, 3, 12), torch.randn(1, 2, 1, 4, 6)
    assert torch.equal(pack_audio(audio, config)[0, 1, 0], audio[0, :, 4:6].T.flatten())
    tokens = pack_video(video, config)[0, 0]
    for token, (top, left) in zip(tokens, ((0, 0), (0, 3), (2, 0), (2, 3)), strict=True):
        assert torch.equal(token, video[0, :, 0, top : top + 2, left : left + 3].permute(1, 2, 0).flatten())
    assert torch.equal(unpack_video(tokens[None, None], config), video)


def test_losses_vanish_for_a_perfect_model_and_only_then():
    config = tiny_config()
    model, streams = tiny_model(), random_streams(config, 2, 3)
    noise = torch.randn(2, 2, *streams.audio.shape[1:]), torch.randn(2, 2, *streams.video.shape[1:])
    sigma = torch.rand(2, 2, 3).clamp(min=0.1)
    noisy = [
        (1 - sigma[..., None, None]) * z[:, None] + sigma[..., None, None] * eps
        for z, eps in zip((streams.audio, streams.video), noise, strict=True)
    ]
    output = model(streams, *noisy, sigma)
    loss = streamer_loss(output, streams, *noise, sigma, config=config)
    assert all(term.mean() > 0 for term in loss.values())
    perfect = type(output)(output.logits, noise[0] - streams.audio[:, None], noise[1] - streams.video[:, None])
    perfect = streamer_loss(perfect, streams, *noise, sigma, config=config)
    assert perfect["audio"].mean() == 0 and perfect["video"].mean() == 0
    with pytest.raises(TypeError, match="config"):
        streamer_loss(output, streams)
    counted = {}
    for wrong in (0.0, 9.0):  # in units that do not count
        velocities = [velocity.clone() for velocity in (output.audio_velocity, output.video_velocity)]
        for part in (*velocities, logits := output.logits.clone()):
            part.select(part.dim() - 3, 1).add_(wrong * torch.randn_like(part.select(part.dim() - 3, 1)))
        valid = torch.tensor([True, False, True]).expand(2, -1)
        terms = streamer_loss(type(output)(logits, *velocities), streams, *noise, sigma, config=config, valid=valid)
        counted[wrong] = torch.stack([terms[name].mean() for name in ("text", "audio", "video")])
    assert torch.equal(counted[0.0], counted[9.0])


def test_the_loss_is_weighed_by_the_models_own_pad_and_smallest_sigma():
    """One slot in three is silent; the weight of an error falls with sigma^2 down to `min_sigma`."""
    streams = random_streams(tiny_config(), 1, 2)
    streams.state[:], streams.agent_text[:] = 1, torch.tensor([5, 7])
    noise = torch.randn(1, 1, *streams.audio.shape[1:]), torch.randn(1, 1, *streams.video.shape[1:])
    wrong = [eps - clean[:, None] + 1 for clean, eps in zip((streams.audio, streams.video), noise, strict=True)]
    logits = torch.zeros(1, 2, 3, 40)
    logits[:, :, 1, 5] = 3.0  # what is said in the first text slot alone is foreseen
    output = StreamerOutput(logits, *wrong)

    def loss(sigma: float = 1.0, **fields):
        levels = torch.full((1, 1, 2), sigma)
        terms = streamer_loss(output, streams, *noise, levels, config=tiny_config(**fields), pad_weight=0.0)
        return {name: term.mean() for name, term in terms.items()}

    assert loss(pad_token_id=5)["text"] > loss(pad_token_id=7)["text"]
    for min_sigma in (0.05, 0.2):
        for sigma in (0.01, 0.1, 0.5):
            expected = torch.tensor(max(sigma, min_sigma) ** 2)
            torch.testing.assert_close(loss(sigma, min_sigma=min_sigma)["audio"], expected)
            torch.testing.assert_close(loss(sigma, min_sigma=min_sigma)["video"], expected)


def test_presets():
    tiny = preset("tiny")
    with torch.device("meta"):
        base = StreamerModel(preset("base"))
    assert 12 <= StreamerModel(tiny).layout.num_tokens <= 16
    assert base.layout.counts["agent_video"] == 252
    assert 0.5e9 < sum(p.numel() for p in base.parameters()) < 0.7e9
    with pytest.raises(ValueError, match="no preset"):
        preset("huge")


NAN, INF = float("nan"), float("inf")
WRONG_FIELDS = {
    "vocab_size": [0, None],
    "hidden_size": [-32, 2.5, "32", True],
    "num_key_value_heads": [0, 3],
    "head_dim": [7, None],
    "rms_norm_eps": [0.0, NAN],
    "rope_theta": [NAN, INF, None, 1.0],
    "rope_sections": [[2, 4], [0, 3, 3], [8, -1, -1], 6],
    "audio_patch_size": [3, 0],
    "video_patch_height": [0, 4],
    "commit_delay": [2, -1],
    "context_window": [0],
    "response_window": [1],
    "prediction_type": ["x"],
    "min_sigma": [0.0, 1.5, NAN],
    "pad_token_id": [None, -1, 40, 2],
    "state_token_ids": [[1, 1], [1], [1, 2.0]],
    "state_names": [["speak", "speak"]],
    "hiden_size": [32],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in WRONG_FIELDS for value in WRONG_FIELDS[field]]
)
def test_wrong_configurations_are_refused(field, value):
    with pytest.raises(ValueError, match=f"^StreamerConfig.*{field}"):
        tiny_config(**{"commit_delay": 1, field: value})


def test_sound_and_picture_without_a_noisy_copy_are_refused():
    model = tiny_model()
    streams = random_streams(model.config, 1, 2)
    with pytest.raises(ValueError, match="take noisy_audio, noisy_video and sigma"):
        model(streams)
