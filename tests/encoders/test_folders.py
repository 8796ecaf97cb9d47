"""What we write transformers opens, and gives the logits that we give."""

import json

import pytest
import torch

from itemic.encoders.folders import write_folder
from itemic.encoders.vocabulary import Vocabulary
from itemic.nn.modernbert import ModernBert
from itemic.nn.packing import Packing

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install 'itemic[dev]')")
TEXTS = ["Red lipstick", "nail polish, red", "Blue nail file ", "polish the blue lipstick"]
LENGTHS, SIDE = [150, 1, 70, 66, 12], 64
"""Some of them are longer than a window on both sides of a word, some end just beyond half of one."""


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.readable(TEXTS, 280, ["[user]", "[recommender]"])


@pytest.fixture(params=[False, True], ids=["encoder", "decoder"])
def written(request, tmp_path, vocabulary):
    """A network with weights large enough to tell masks and positions apart, and its folder opened by transformers."""
    torch.manual_seed(0)
    bases = (160_000.0, 10_000.0)
    model = ModernBert(
        len(vocabulary), 32, layers=5, heads=2, hidden=24, side=SIDE, bases=bases, causal=request.param
    ).eval()
    for name, weight in model.named_parameters():
        torch.nn.init.normal_(weight, mean=float("norm" in name), std=0.3)
    write_folder(tmp_path, model, vocabulary, bases, longest=256)
    kind = transformers.AutoModelForCausalLM if request.param else transformers.AutoModelForMaskedLM
    return model, kind.from_pretrained(tmp_path, local_files_only=True).eval(), tmp_path


def some_words(n_words):
    word = torch.randint(5, n_words, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))
    return word, Packing(torch.tensor([0, *LENGTHS]).cumsum(0))


@torch.no_grad()
def test_logits_are_those_of_transformers_to_a_ten_thousandth(written):
    model, theirs, _ = written
    word, packing = some_words(len(model.word.weight))
    ids, mask = torch.zeros(5, 150, dtype=torch.long), torch.zeros(5, 150, dtype=torch.long)
    ids[packing.row, packing.place], mask[packing.row, packing.place] = word, 1
    expected = theirs(input_ids=ids, attention_mask=mask).logits[packing.row, packing.place]
    found = model.logits(model(word, packing))
    assert expected.std() > 1
    assert (found - expected).abs().max() < 1e-4


@torch.no_grad()
def test_masks_and_bases_matter_to_that_comparison(written):
    model, theirs, _ = written
    word, packing = some_words(len(model.word.weight))
    expected = theirs(input_ids=word[None, :150]).logits[0]

    def apart():
        return (model.logits(model(word, packing))[:150] - expected).abs().max()

    assert apart() < 1e-4
    for changed, value in (("side", SIDE - 1), ("side", SIDE + 1), ("every", 2)):
        before = getattr(model, changed)
        setattr(model, changed, value)
        assert apart() > 1e-2
        setattr(model, changed, before)
    for positions, base in ((model.near, 160_000.0), (model.far, 10_000.0)):
        kept = positions.frequencies.clone()
        positions.rebase(base)
        assert apart() > 1e-2
        positions.frequencies.copy_(kept)


def test_the_folder_says_the_base_of_both_kinds_of_layers_and_which_layers_are_global(written):
    model, theirs, folder = written
    facts = json.loads((folder / "config.json").read_text())
    assert facts["rope_parameters"] == {
        "full_attention": {"rope_type": "default", "rope_theta": 160_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    assert theirs.config.rope_parameters == facts["rope_parameters"]
    assert theirs.config.layer_types == ["full_attention", *["sliding_attention"] * 2] * 1 + [
        "full_attention", "sliding_attention"
    ]  # fmt: skip
    assert theirs.config.get_text_config().vocab_size == len(model.word.weight)


def test_its_tokenizer_cuts_and_joins_texts_as_the_vocabulary_does(written, vocabulary):
    model, _, folder = written
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = ["Red nail  file ✓", "", "blue\nlipstick"]
    ours = vocabulary.whole(texts, 1000).to_lists()
    assert tokenizer(texts)["input_ids"] == [row[:-1] if model.causal else row for row in ours]
    assert tokenizer.batch_decode(ours, skip_special_tokens=True) == texts
    assert tokenizer.convert_tokens_to_ids(["[user]", "[recommender]"]) == [5, 6]
    assert tokenizer.pad_token == "[PAD]"
    assert (tokenizer.mask_token, tokenizer.cls_token, tokenizer.sep_token) == ("[MASK]", "[CLS]", "[SEP]")
    if model.causal:
        assert (tokenizer.bos_token, tokenizer.eos_token) == ("[CLS]", "[SEP]")


def test_transformers_goes_on_with_a_text_as_our_decoder_does(written):
    model, theirs, _ = written
    if not model.causal:
        pytest.skip("an encoder writes nothing")
    word = some_words(len(model.word.weight))[0][:100]
    made = theirs.generate(word[None], max_new_tokens=8, do_sample=False, eos_token_id=None)[0]
    for n in range(100, 108):
        packing = Packing(torch.tensor([0, n]))
        assert int(model.logits(model(made[:n], packing))[-1].argmax()) == int(made[n])


def test_weights_tied_there_are_written_once(written):
    model, theirs, folder = written
    n = sum(weight.numel() for weight in model.parameters())
    assert sum(weight.numel() for weight in theirs.parameters()) == n
    assert (folder / "model.safetensors").stat().st_size == pytest.approx(4 * n, rel=0.05)
