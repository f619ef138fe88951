"""What makes room for large models changes nothing else: adapters, checkpointed gradients, bfloat16, device maps."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from streamer_core import StreamerConfig, StreamerModel, UnitStreams, streamer_loss

LORA = LoraConfig(
    r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], modules_to_save=["video_in"]
)  # and user_video_in


def tiny_model(**fields) -> StreamerModel:
    torch.manual_seed(0)
    config = {
        "vocab_size": 20,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "perception_dim": 8,
        "audio_latent_channels": 4,
        "video_latent_channels": 4,
        "video_latent_height": 2,
        "video_latent_width": 2,
        "video_patch_height": 2,
    }
    return StreamerModel(StreamerConfig(**config | fields))


def a_batch(config: StreamerConfig, num_units: int = 5) -> dict:
    """Arguments of one training forward, and the noise it was made with."""
    generator = torch.Generator().manual_seed(1)
    normal = lambda *shape: torch.randn(1, *shape, generator=generator)  # noqa: E731
    ids = lambda *shape: torch.randint(3, config.vocab_size, (1, num_units, *shape), generator=generator)  # noqa: E731
    audio = num_units, config.agent_audio_tokens, config.audio_token_dim
    video = num_units, config.agent_video_tokens, config.video_token_dim
    streams = UnitStreams(
        user_text=ids(config.user_text_slots),
        user_audio=normal(num_units, config.user_audio_tokens, config.perception_dim),
        user_video=normal(num_units, config.user_video_tokens, config.perception_dim),
        state=torch.full((1, num_units), config.state_token_ids[0]),
        agent_text=ids(config.agent_text_slots),
        audio=normal(*audio),
        video=normal(*video),
    )
    noise = normal(1, *audio), normal(1, *video)
    sigma = torch.full((1, 1, num_units), 0.5)
    return {"streams": streams, "noise": noise, "sigma": sigma}


def forward(model, batch):
    """The output on noisy copies half way between latents and noise."""
    streams, noise = batch["streams"], batch["noise"]
    noisy = [(clean[:, None] + eps) / 2 for clean, eps in zip((streams.audio, streams.video), noise, strict=True)]
    dtype = model.audio_in.weight.dtype
    cast = {name: getattr(streams, name).to(dtype) for name in ("user_audio", "user_video", "audio", "video")}
    streams = UnitStreams(streams.user_text, cast["user_audio"], cast["user_video"], streams.state, streams.agent_text,
                          cast["audio"], cast["video"])  # fmt: skip
    return model(streams, *(part.to(dtype) for part in noisy), batch["sigma"].to(dtype))


def loss(model, batch):
    terms = streamer_loss(forward(model, batch), batch["streams"], *batch["noise"], batch["sigma"], config=model.config)
    return torch.stack([term.mean() for term in terms.values()]).sum()


def test_an_adapter_starts_as_the_model_it_adapts():
    model = tiny_model().eval()
    batch = a_batch(model.config)
    expected = forward(model, batch)
    adapted = forward(get_peft_model(copy.deepcopy(model), LORA).eval(), batch)
    torch.testing.assert_close(adapted.logits, expected.logits)
    torch.testing.assert_close(adapted.video_velocity, expected.video_velocity)


def test_an_adapter_learns_and_leaves_the_rest_as_it_was(tmp_path):
    model = tiny_model()
    batch = a_batch(model.config)
    before = copy.deepcopy(model.state_dict())
    adapted = get_peft_model(copy.deepcopy(model), LORA)
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], 1e-2)
    first = loss(adapted, batch)
    for _ in range(8):
        optimizer.zero_grad()
        loss(adapted, batch).backward()
        optimizer.step()
    assert loss(adapted, batch) < 0.9 * first
    trained, total = adapted.get_nb_trainable_parameters()
    assert trained < total / 4

    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path).eval()
    expected = forward(adapted.eval(), batch)
    assert torch.equal(forward(loaded, batch).logits, expected.logits)
    merged = loaded.merge_and_unload()
    assert type(merged) is StreamerModel
    torch.testing.assert_close(forward(merged, batch).video_velocity, expected.video_velocity, rtol=1e-4, atol=1e-5)
    changed = {name for name, value in merged.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rsplit(".", 2)[-2] for name in changed} == {
        "q_proj",
        "v_proj",
        "down_proj",
        "video_in",
        "user_video_in",
    }


TABLES = ["embed_tokens", "lm_head"]


@pytest.mark.parametrize("tables", [TABLES[:1], TABLES[1:], TABLES])
def test_an_adapter_of_a_tied_table_is_refused(tables):
    model = tiny_model()
    batch = a_batch(model.config)
    expected = forward(model.eval(), batch).logits
    for ensure in (False, True):
        with pytest.raises(ValueError, match=r"cannot have an adapter.*modules_to_save"):
            get_peft_model(
                copy.deepcopy(model), LoraConfig(target_modules=["q_proj", *tables], ensure_weight_tying=ensure)
            )
    assert torch.equal(forward(model, batch).logits, expected)


@pytest.mark.parametrize(
    ("tied", "options"),
    [(False, {"target_modules": TABLES}), (True, {"target_modules": "all-linear"})]
    + [(True, {"target_modules": ["q_proj"], "modules_to_save": [name]}) for name in TABLES]
    + [(True, {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]})],
)
def test_tables_that_were_trained_merge_to_the_same_model(tied, options, tmp_path):
    model = tiny_model(tie_word_embeddings=tied)
    batch = a_batch(model.config)
    adapted = get_peft_model(model, LoraConfig(r=4, **options)).eval()
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    expected = forward(adapted, batch).logits
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(forward(merged, batch).logits, expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path)
    loaded = StreamerModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(forward(loaded, batch).logits, expected, rtol=1e-4, atol=1e-4)


def test_checkpointed_gradients_are_the_same():
    plain, frugal = tiny_model().train(), tiny_model().train()
    frugal.gradient_checkpointing_enable()
    assert frugal.is_gradient_checkpointing
    batch = a_batch(plain.config)
    losses = [loss(model, batch) for model in (plain, frugal)]
    assert torch.equal(*losses)
    for value in losses:
        value.backward()
    for (name, one), other in zip(plain.named_parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_checkpointing_keeps_fewer_numbers_for_the_backward_pass():
    kept = {}
    for name in ("plain", "frugal"):
        model, numbers = tiny_model(num_hidden_layers=6).train(), []
        if name == "frugal":
            model.gradient_checkpointing_enable()
        weights = {parameter.data_ptr() for parameter in model.parameters()}
        pack = lambda tensor, n=numbers, w=weights: n.append(tensor.data_ptr() in w or tensor.numel()) or tensor  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss(model, a_batch(model.config))
        kept[name] = sum(count for count in numbers if count is not True)
    assert kept["frugal"] < kept["plain"] / 2


def test_bfloat16_weights_are_half_the_bytes_and_nearly_the_model(tmp_path):
    model = tiny_model().eval()
    model.save_pretrained(tmp_path)
    half = StreamerModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert half.get_memory_footprint() < 0.55 * model.get_memory_footprint()
    batch = a_batch(model.config)
    expected, found = forward(model, batch), forward(half, batch)
    for name in ("logits", "audio_velocity", "video_velocity"):
        one, other = getattr(expected, name), getattr(found, name)
        assert other.dtype == torch.bfloat16
        assert (one - other.float()).norm() < 0.05 * one.norm()


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_a_device_map_places_the_same_model(tmp_path, device_map):
    model = tiny_model().eval()
    model.save_pretrained(tmp_path)
    placed = StreamerModel.from_pretrained(tmp_path, device_map=device_map).eval()
    batch = a_batch(model.config)
    assert torch.equal(forward(placed, batch).logits, forward(model, batch).logits)


@pytest.mark.parametrize("on_disk", ["model.layers.1", "slot_embedding", "all but one"])
def test_any_layer_can_stay_on_disk(tmp_path, on_disk):
    """What does not fit is read when it is needed: the map of a machine that is too small."""
    model = tiny_model(tie_word_embeddings=False).eval()
    model.save_pretrained(tmp_path)
    names = [name for name, _ in model.named_children() if name != "model"]
    names += ["model.embed_tokens", "model.norm", "model.rotary_emb"]
    names += [f"model.layers.{index}" for index in range(3)]
    away = {name for name in names if name == on_disk or (on_disk == "all but one" and name != "model.norm")}
    device_map = {name: "disk" if name in away else "cpu" for name in names}
    placed = StreamerModel.from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path / "disk").eval()
    for name, weight in placed.named_parameters():
        assert (weight.device.type == "meta") == any(name.startswith(f"{part}.") for part in away), name
    batch = a_batch(model.config)
    with torch.no_grad():
        found, expected = forward(placed, batch), forward(model, batch)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.video_velocity, expected.video_velocity)
