"""How language models read vectors between words and answer, beside transformers' own calls on random models."""

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from itemic.encoders.talking import SOFT, Talker
from itemic.nn.decoding import Trie, beam_search
from itemic.nn.text import side_by_side

WORDS, DIM, END = 24, 16, 1


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=DIM, n_layer=2, n_head=2, n_positions=64))


def qwen():
    shape = {
        "hidden_size": DIM,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "head_dim": 8,
        "tie_word_embeddings": True,
    }
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=WORDS, num_attention_heads=2, num_key_value_heads=1, **shape))


def t5():
    shape = {"d_model": DIM, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=WORDS, decoder_start_token_id=0, dropout_rate=0.0, **shape))


def mistral():
    """Sees three words back."""
    shape = {"hidden_size": DIM, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8, "sliding_window": 3}
    config = MistralConfig(vocab_size=WORDS, num_attention_heads=2, num_key_value_heads=1, **shape)
    return MistralForCausalLM(config)


def gemma():
    """Every other layer sees three words back."""
    shape = {"hidden_size": DIM, "intermediate_size": 32, "num_hidden_layers": 4, "head_dim": 8, "sliding_window": 3}
    kinds = ["sliding_attention", "full_attention"] * 2
    config = Gemma3TextConfig(
        vocab_size=WORDS, num_attention_heads=2, num_key_value_heads=1, layer_types=kinds, **shape
    )
    return Gemma3ForCausalLM(config)


def modernbert():
    """Two of three layers see three words back."""
    shape = {"hidden_size": DIM, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = ModernBertDecoderConfig(vocab_size=WORDS, local_attention=6, pad_token_id=0, **shape)
    return ModernBertDecoderForCausalLM(config)


MODELS = [gpt2, qwen, mistral, gemma, modernbert, t5]


@pytest.fixture(params=MODELS, ids=[model.__name__ for model in MODELS])
def talker(request):
    torch.manual_seed(0)
    network = request.param()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return Talker(network, 0, END)


def packed(*rows):
    return torch.tensor([word for row in rows for word in row]), torch.tensor([0, *map(len, rows)]).cumsum(0)


def asked(talker, *rows, vectors=None):
    token, bounds = packed(*rows)
    return talker.prompts(token, bounds, torch.zeros(0, DIM) if vectors is None else vectors)


def answers(*rows):
    return side_by_side(*packed(*rows))


def own_logits(talker, prompt, answer):
    """What transformers says of one answer after one prompt, without padding or vectors."""
    with torch.no_grad():
        if talker.is_paired:
            before = torch.tensor([[0, *answer[:-1]]])
            return talker.network(input_ids=torch.tensor([prompt]), decoder_input_ids=before).logits[0]
        whole = talker.network(input_ids=torch.tensor([[*prompt, *answer[:-1]]])).logits[0]
        return whole[len(prompt) - 1 :]


PROMPTS, ANSWERS = ([3, 4, 5, 6, 7], [8, 9]), ([10, END], [11, 12, 13, END])


def test_prompts_without_vectors_give_just_the_logits_of_the_language_model(talker):
    told = talker.told(asked(talker, *PROMPTS), answers(*ANSWERS)).detach()
    for n, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS)):
        torch.testing.assert_close(told[n, : len(answer)], own_logits(talker, prompt, answer), atol=1e-4, rtol=0)


def test_a_vector_that_is_a_words_embedding_is_that_word(talker):
    vectors = talker.read(torch.tensor([5, 9])).detach()
    soft = [[3, 4, SOFT, 6, 7], [8, SOFT]]
    told, spliced = (
        talker.told(prompts, answers(*ANSWERS))
        for prompts in (asked(talker, *PROMPTS), asked(talker, *soft, vectors=vectors))
    )
    torch.testing.assert_close(told, spliced, atol=1e-5, rtol=0)


def test_gradients_reach_the_vectors_through_a_frozen_model(talker):
    talker.network.requires_grad_(False)
    vectors = torch.randn(2, DIM, requires_grad=True)
    prompts = asked(talker, [3, SOFT, 6], [SOFT, 8], vectors=vectors)
    talker.chances(prompts, answers(*ANSWERS)).sum().backward()
    assert (vectors.grad.norm(dim=1) > 0).all()
    assert all(weight.grad is None for weight in talker.network.parameters())


def test_search_along_a_tree_finds_the_order_of_the_whole_chances(talker):
    codes = torch.tensor([[4, 5, END], [4, END, -1], [6, 7, END], [4, 5, 8], [9, END, -1]])
    codes = torch.cat([codes, torch.tensor([[-1], [-1], [-1], [END], [-1]])], 1).numpy()
    prompts = asked(talker, *PROMPTS)
    with torch.no_grad():
        found = beam_search(talker.step(prompts), Trie.of(codes), 2, width=8, k=5)
        rows = [[c for c in row if c >= 0] for row in codes.tolist()]
        for n, prompt in enumerate(PROMPTS):
            alone = asked(talker, *[prompt] * 5)
            chances = talker.chances(alone, answers(*rows))
            order = chances.argsort(descending=True)
            assert found.items[n].tolist() == order.tolist()
            torch.testing.assert_close(found.scores[n], chances[order], atol=1e-4, rtol=0)


def test_new_text_is_that_of_the_whole_text_read_again_at_each_word(talker):
    prompts = asked(talker, *PROMPTS)
    with torch.no_grad():
        said = torch.stack(list(talker.speak(prompts, 6, lambda logits: logits.argmax(1))), 1).tolist()
    for prompt, line in zip(PROMPTS, said):
        wanted: list[int] = []
        while len(wanted) < len(line):
            done = END in wanted
            word = END if done else int(own_logits(talker, prompt, [*wanted, 0])[-1].argmax())
            wanted.append(word)
        assert line == wanted


def test_training_in_bfloat16_takes_the_gradients_of_float32(talker):
    gradients = []
    for half in (False, True):
        vectors = torch.arange(2 * DIM).reshape(2, DIM).sin().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            prompts = asked(talker, [3, SOFT, 6, 9, 2], [SOFT, 8], vectors=vectors)
            chances = talker.chances(prompts, answers(*ANSWERS))
        gradients.append(torch.autograd.grad(chances.sum(), vectors)[0].flatten())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
