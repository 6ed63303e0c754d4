# SPDX-License-Identifier: Apache-2.0
"""Question answering: what steers it, what must not matter, and what it refuses."""

import pytest
import torch


NUM_LABELS, REGION = 5, 10
VARIANTS = {
    "transformer": {},
    "gru": {"decoder": "gru", "embedding_size": 12},
    "lstm": {"decoder": "lstm"},
    "ngrams": {"decoder": "gru", "question_ngrams": 64},
    "three hops": {"num_hops": 3, "num_region_layers": 0},
    "paper": {"decoder": "gru", "question_variant": "paper"},
    "baseline0": {"decoder": "gru", "question_variant": "baseline0"},
    "baseline0_newatt": {"decoder": "gru", "question_variant": "baseline0_newatt", "embedding_size": 12},
}


@pytest.fixture
def build(tiny):
    def build(name: str = "transformer", **changes):
        sizes = {"hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": 12}
        given = {"selector": "given", "region_size": REGION}
        top_down = {**sizes, **VARIANTS[name], **changes}
        return tiny("ButdForQuestionAnswering", given, top_down, tie_word_embeddings=False)

    return build


def asked(num_questions: int = 3, num_regions: int = 5) -> dict[str, torch.Tensor]:
    """Questions of different lengths, padded on the left, about images with different numbers of regions."""
    low = torch.rand(num_questions, num_regions, 2) / 2
    lengths = torch.tensor([6, 3, 1, 4][:num_questions])
    counts = torch.tensor([num_regions, 2, 4, 1][:num_questions])
    attention_mask = (torch.arange(6)[None] >= 6 - lengths[:, None]).long()
    return {
        "region_features": torch.randn(num_questions, num_regions, REGION),
        "region_boxes": torch.cat([low, low + 0.3], dim=-1),
        "region_mask": torch.arange(num_regions)[None] < counts[:, None],
        "input_ids": torch.randint(3, 50, (num_questions, 6)) * attention_mask,
        "attention_mask": attention_mask,
    }


@pytest.fixture(params=VARIANTS)
def model(request, build):
    return build(request.param)


def assert_same(tensor, other, atol=1e-5):
    torch.testing.assert_close(tensor, other, atol=atol, rtol=1e-5)


@torch.no_grad()
def test_an_answer_changes_neither_with_its_batch_nor_with_padding(model):
    inputs = asked()
    together = model(**inputs)
    assert together.logits.shape == (3, NUM_LABELS)
    for row in range(3):
        words, regions = inputs["attention_mask"][row].bool(), inputs["region_mask"][row]
        alone = model(
            region_features=inputs["region_features"][row : row + 1, regions],
            region_boxes=inputs["region_boxes"][row : row + 1, regions],
            input_ids=inputs["input_ids"][row : row + 1, words],
        )
        assert_same(alone.logits[0], together.logits[row])
        assert_same(alone.region_attentions[0], together.region_attentions[row][:, regions])
    # padding says nothing, on either side
    words, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    right = {**inputs, "input_ids": torch.zeros_like(words), "attention_mask": inputs["attention_mask"].flip(1)}
    for row in range(3):
        right["input_ids"][row, : mask[row].sum()] = words[row, mask[row]]
    noise = torch.where(mask, words, torch.randint_like(words, 3, 50))
    assert_same(model(**right).logits, together.logits)
    assert_same(model(**{**inputs, "input_ids": noise}).logits, together.logits)


@torch.no_grad()
def test_question_and_regions_both_matter(model):
    inputs = asked()
    expected = model(**inputs)
    others = {"input_ids": inputs["input_ids"].roll(1, 0), "attention_mask": inputs["attention_mask"].roll(1, 0)}
    assert (model(**{**inputs, **others}).logits - expected.logits).abs().amax(dim=1).min() > 1e-5
    words = inputs["input_ids"].clone()
    words[:, -1] = (words[:, -1] + 1) % 50  # the last one, too, alone
    assert (model(**{**inputs, "input_ids": words}).logits - expected.logits).abs().amax(dim=1).min() > 1e-5
    features = inputs["region_features"].roll(1, 1)
    features[:, 0] += 1
    assert (model(**{**inputs, "region_features": features}).logits - expected.logits).abs().amax() > 1e-5
    attentions = expected.region_attentions
    settings = model.config.top_down_config
    num_hops = settings.num_hops if settings.question_variant == "hops" else 1
    assert attentions.shape == (3, num_hops, 5)
    assert_same(attentions.sum(dim=-1), torch.ones(3, num_hops))
    assert not attentions.masked_select(~inputs["region_mask"][:, None]).any()


@torch.no_grad()
def test_without_a_question_only_the_image_speaks(model):
    inputs = asked()
    regions = {name: value for name, value in inputs.items() if name.startswith("region")}
    silent = model(**regions).logits
    assert silent.isfinite().all()
    empty = {"input_ids": inputs["input_ids"], "attention_mask": torch.zeros_like(inputs["attention_mask"])}
    assert_same(model(**regions, **empty).logits, silent)
    assert_same(model(**regions, input_ids=torch.zeros(3, 0)).logits, silent)
    one_empty = model(**regions, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"].tril(-7))
    assert_same(one_empty.logits, silent)


@torch.no_grad()
def test_words_beyond_the_longest_question_are_not_read(model):
    inputs, words, mask = asked(), torch.randint(3, 50, (3, 1000)), torch.ones(3, 1000, dtype=torch.long)
    mask[1, :400] = mask[2, :995] = 0
    long = model(**inputs | {"input_ids": words, "attention_mask": mask}).logits
    for row, read in enumerate([words[0, :12], words[1, 400:412], words[2, 995:]]):
        regions = {name: value[row : row + 1] for name, value in inputs.items() if name.startswith("region")}
        assert_same(model(**regions, input_ids=read[None]).logits[0], long[row])


def test_labels_must_fit_the_problem(build):
    model, inputs = build(), asked()
    for wrong in (torch.rand(3, 2), torch.tensor([1, 2]), torch.ones(3, NUM_LABELS, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"`labels` has shape .* expected float scores \(3, 5\)"):
            model(**inputs, labels=wrong)
    model.config.problem_type = "multi_label_classification"
    assert model(**inputs, labels=torch.ones(3, NUM_LABELS, dtype=torch.long)).loss.isfinite()
    with pytest.raises(ValueError, match="multi_label_classification"):
        model(**inputs, labels=torch.tensor([1, 2, 3]))


@torch.no_grad()
def test_without_regions_only_the_question_counts(model):
    inputs = asked()
    inputs["region_mask"] = torch.zeros_like(inputs["region_mask"])
    seen = []
    for hop in getattr(model.top_down, "glimpses", []):
        hop.register_forward_hook(lambda module, given, output: seen.append(output[1]))
    blind = model(**inputs)
    assert blind.logits.isfinite().all() and not blind.region_attentions.any()
    assert not any(attended.any() for attended in seen)
    inputs["region_features"] = torch.full_like(inputs["region_features"], float("nan"))
    assert_same(model(**inputs).logits, blind.logits, atol=0)
    none = {name: value[:, :1] for name, value in inputs.items() if name.startswith("region")}
    assert_same(model(**{**inputs, **none}).logits, blind.logits)


def test_losses_by_kind_of_label(build):
    model, inputs = build(), asked()
    logits = model(**inputs).logits
    soft = torch.rand(3, NUM_LABELS)
    probability = logits.sigmoid()
    expected = -(soft * probability.log() + (1 - soft) * (1 - probability).log()).sum() / 3
    assert_same(model(**inputs, labels=soft).loss, expected, atol=1e-4)
    one = torch.tensor([2, -100, 4])
    expected = -logits.log_softmax(-1)[[0, 2], [2, 4]].mean()
    assert_same(model(**inputs, labels=one).loss, expected, atol=1e-4)
    # what a trainer says of the labels of a whole step
    assert_same(model(**inputs, labels=one, num_items_in_batch=4).loss, expected / 2, atol=1e-4)
    several = model(**inputs, labels=soft, num_items_in_batch=6 * NUM_LABELS).loss
    assert_same(several, model(**inputs, labels=soft).loss / 2, atol=1e-4)
    model.config.label_smoothing = 0.2
    even = -logits.log_softmax(-1)[[0, 2]].mean()
    assert_same(model(**inputs, labels=one).loss, 0.8 * expected + 0.2 * even)


@pytest.mark.parametrize("name", ["transformer", "gru", "paper", "baseline0_newatt"])
def test_it_learns_what_depends_on_both(build, name):
    """Which of two regions is meant, only the word says; what it looks like, only the image."""
    torch.manual_seed(1)
    model = build(name, dropout=0.0, answer_dropout=0.0).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]).expand(64, 2, 4)

    def batch():
        kinds, asks = torch.randint(0, 2, (64, 2)), torch.randint(0, 2, (64,))
        features = torch.zeros(64, 2, REGION)
        features[:, 0, 0] = features[:, 1, 1] = 2.0  # left or right, for heads that see no boxes
        features.scatter_(2, kinds[..., None] + 3, 2.0)
        return features, 5 + asks[:, None], kinds.gather(1, asks[:, None])[:, 0]

    for _ in range(200):
        features, words, labels = batch()
        loss = model(region_features=features, region_boxes=boxes, input_ids=words, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.1:
            break
    features, words, labels = batch()
    answers = model.eval()(region_features=features, region_boxes=boxes, input_ids=words).logits.argmax(dim=-1)
    assert (answers == labels).float().mean() > 0.9  # either alone gives 0.75 at best


@torch.no_grad()
def test_embedded_words_and_hidden_states(model):
    inputs = asked()
    outputs = model(**inputs, output_hidden_states=True)
    assert len(outputs.hidden_states) >= 2 and all(len(states) == 3 for states in outputs.hidden_states)
    assert outputs.last_hidden_state.shape == (3, 16)
    words = model.get_input_embeddings()(inputs.pop("input_ids"))
    if model.question_encoder.ngrams is None:
        assert_same(model(**inputs, inputs_embeds=words).logits, outputs.logits)
    else:
        with pytest.raises(ValueError, match="`inputs_embeds` have no n-grams, expected `input_ids`"):
            model(**inputs, inputs_embeds=words)
    with pytest.raises(ValueError, match=r"`attention_mask` has shape \(3, 5\), expected \(3, 6\)"):
        model(**{**inputs, "attention_mask": torch.ones(3, 5), "input_ids": torch.ones(3, 6, dtype=torch.long)})
