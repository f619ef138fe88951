"""Public language models inside: their logits are kept, their words too, and what does not fit is refused."""

import pytest
import torch
from duplex_world.public_stand_ins import save_qwen3
from streamer_core import StreamerModel, StreamerTokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONTROL = {"perception_dim": 8, "pad_token_id": 0, "state_token_ids": [1, 2]}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES = {
    "qwen3": ("qwen3", {"head_dim": 12}),
    "qwen3, biased": ("qwen3", {"head_dim": 12, "attention_bias": True}),
    "qwen2.5": ("qwen2", {"tie_word_embeddings": True}),
    "llama 2, smollm2": ("llama", {"tie_word_embeddings": True}),
    "llama, biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3.1": ("llama", {"rope_parameters": LLAMA3}),
    "llama, lengthened": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 1, 0, 1], "tie_word_embeddings": True}),
}


def saved(folder, model_type, **fields):
    """A random model of a family whose norms, biases and weights all matter."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**SHAPE | fields)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_every_family_keeps_its_logits(tmp_path, name):
    model_type, fields = CASES[name]
    theirs = saved(tmp_path, model_type, **fields)
    model = StreamerModel.from_language_model(tmp_path, **CONTROL).eval()
    ids = torch.randint(60, (2, 90))
    torch.testing.assert_close(model.text_forward(ids), theirs(ids).logits, atol=2e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "ours")
    again = StreamerModel.from_pretrained(tmp_path / "ours").eval()
    assert torch.equal(again.text_forward(ids), model.text_forward(ids))


def test_what_this_transformer_does_not_have_is_refused_with_the_reason(tmp_path):
    cases = {
        "a sliding window": ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}),
        "scaled by 'yarn'": ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}),
        "the activation 'gelu'": ("llama", {"hidden_act": "gelu"}),
    }
    for number, (reason, (model_type, fields)) in enumerate(cases.items()):
        saved(tmp_path / str(number), model_type, **fields)
        with pytest.raises(ValueError, match=reason):
            StreamerModel.from_language_model(tmp_path / str(number), **CONTROL)
    Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, head_dim=4)).save_pretrained(tmp_path / "gemma")
    with pytest.raises(ValueError, match="'gemma3_text' checkpoint; this Transformer reads qwen3, qwen2, llama"):
        StreamerModel.from_language_model(tmp_path / "gemma", **CONTROL)


@torch.no_grad()
def test_a_table_without_spare_rows_grows_and_all_other_words_keep_their_logits(tmp_path):
    folder = save_qwen3(tmp_path / "words")
    published = AutoTokenizer.from_pretrained(folder)
    theirs = saved(tmp_path / "llama", "llama", vocab_size=len(published), tie_word_embeddings=True)
    published.save_pretrained(tmp_path / "llama")
    model = StreamerModel.from_language_model(tmp_path / "llama").eval()
    tokenizer = StreamerTokenizer.extend(published)
    assert model.config.vocab_size == len(tokenizer) == len(published) + 3
    assert model.config.pad_token_id == tokenizer.pad_token_id == len(published)
    ids = torch.randint(len(published), (2, 30))
    found, expected = model.text_forward(ids), theirs(ids).logits
    torch.testing.assert_close(found[..., : len(published)], expected, atol=2e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="leave device_map out"):
        StreamerModel.from_language_model(tmp_path / "llama", device_map="cpu")


@torch.no_grad()
def test_several_gguf_files_are_not_guessed_between(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"a\.gguf, b\.gguf: name one with gguf_file"):
        StreamerModel.from_language_model(tmp_path)
