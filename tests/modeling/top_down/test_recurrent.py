# SPDX-License-Identifier: Apache-2.0
"""The recurrent decoders, on regions of their own making, against the published equations written out."""

import pytest
import torch
from transformers.cache_utils import DynamicCache

from butd_hf.modeling.configuration_butd import ButdConfig, ButdTopDownConfig
from butd_hf.modeling.modeling_captioning_butd import ButdForConditionalGeneration
from butd_hf.modeling.regions import ButdRegions
from butd_hf.modeling.top_down.recurrent import (
    ButdGruDecoder,
    ButdLstmDecoder,
    ButdRecurrentCache,
    ButdRecurrentDecoder,
)


REGION_SIZE, NUM_REGIONS, VOCAB_SIZE, LENGTH, HIDDEN_SIZE = 12, 5, 40, 6, 16
DECODERS = {"lstm": ButdLstmDecoder, "gru": ButdGruDecoder}
KINDS = [(decoder, variant) for decoder in DECODERS for variant in ("paper", "port")]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids="-".join)
EVERY_DECODER = pytest.mark.parametrize("kind", [("lstm", "port"), ("gru", "paper")], ids="-".join)


def build(kind: tuple[str, str], **changes) -> ButdRecurrentDecoder:
    torch.manual_seed(0)
    decoder, variant = kind
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": HIDDEN_SIZE, "attention_size": 7, "embedding_size": 10}
    config = ButdTopDownConfig(decoder=decoder, recurrent_variant=variant, **{**sizes, **changes})
    built = DECODERS[decoder](config, region_size=REGION_SIZE).eval()
    for parameter in built.parameters():  # far enough from zero for attention that chooses
        torch.nn.init.normal_(parameter, std=0.5)
    return built


def some_regions(counts: tuple[int, ...] = (5, 3)) -> ButdRegions:
    """Regions of images that have `counts` of them; what stands where there is none must not matter."""
    generator = torch.Generator().manual_seed(1)
    num_images = len(counts)
    return ButdRegions(
        features=torch.randn(num_images, NUM_REGIONS, REGION_SIZE, generator=generator),
        boxes=torch.rand(num_images, NUM_REGIONS, 4, generator=generator),
        saliency=torch.rand(num_images, NUM_REGIONS, generator=generator),
        mask=torch.arange(NUM_REGIONS)[None] < torch.tensor(counts)[:, None],
    )


def some_tokens(num_texts: int = 2, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(3, VOCAB_SIZE, (num_texts, length), generator=torch.Generator().manual_seed(2))


def one_image(regions: ButdRegions, image: int) -> ButdRegions:
    return ButdRegions(**{name: regions[name][image, None] for name in regions})


def lstm_step(x, hidden, cell, weights):
    """An LSTM, gate by gate."""
    gates = weights.weight_ih @ x + weights.bias_ih + weights.weight_hh @ hidden + weights.bias_hh
    into, forget, new, out = gates.view(4, -1)
    cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
    return out.sigmoid() * cell.tanh(), cell


def gru_step(x, hidden, weights):
    """A GRU, gate by gate."""
    from_input = (weights.weight_ih @ x + weights.bias_ih).view(3, -1)
    from_state = (weights.weight_hh @ hidden + weights.bias_hh).view(3, -1)
    reset, update = (from_input[:2] + from_state[:2]).sigmoid()
    return (1 - update) * (from_input[2] + reset * from_state[2]).tanh() + update * hidden


def written_out(decoder: ButdRecurrentDecoder, features: torch.Tensor, tokens: list[int]):
    """One text about one image by the equations, region by region and word by word: outputs and attention.

    The paper (Anderson et al. 2018, section 3.2): the attention LSTM's input is word, mean of the raw features and
    language state, the language LSTM's attention state and attended raw features; attention without biases. The port:
    rectified words, projected and rectified features and mean, opposite order, biases.
    """
    cell, is_port = decoder.cell, decoder.config.recurrent_variant == "port"
    mean = sum(features) / len(features)
    words = decoder.embed_tokens.weight
    if is_port:
        words = words.relu()
        features = [(decoder.region_proj.weight @ feature + decoder.region_proj.bias).relu() for feature in features]
        mean = (decoder.pooled_proj.weight @ mean + decoder.pooled_proj.bias).relu()
    has_lstm = decoder.config.decoder == "lstm"
    state, state_cell, output, output_cell = torch.zeros(4, HIDDEN_SIZE)
    outputs, attentions = [], []
    for token in tokens:
        parts = [words[token], mean, output]
        x = torch.cat(parts[::-1] if is_port else parts)
        if has_lstm:
            state, state_cell = lstm_step(x, state, state_cell, cell.attention_lstm)
        else:
            state = gru_step(x, state, cell.attention_gru)
        scores = []
        for feature in features:
            inner = decoder.key_proj.weight @ feature + cell.attention.query_proj.weight @ state
            if is_port:
                inner = inner + decoder.key_proj.bias + cell.attention.query_proj.bias
            score = cell.attention.score_proj.weight[0] @ inner.tanh()
            scores.append(score + cell.attention.score_proj.bias[0] if is_port else score)
        shares = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
        attended = sum(share * feature for share, feature in zip(shares, features, strict=True))
        parts = [state, attended]
        x = torch.cat(parts[::-1] if is_port else parts)
        if has_lstm:
            output, output_cell = lstm_step(x, output, output_cell, cell.language_lstm)
        else:
            output = (cell.language_proj.weight @ x + cell.language_proj.bias).tanh()
        outputs.append(output)
        attentions.append(shares)
    return torch.stack(outputs), torch.stack(attentions)


@EVERY_KIND
@torch.no_grad()
def test_equals_the_equations(kind, num_texts=6):  # three of each image
    decoder, regions, tokens = build(kind), some_regions(), some_tokens(num_texts)
    decoded = decoder(tokens, decoder.encode(regions), output_attentions=True, output_hidden_states=True)
    (weights,) = decoded.cross_attentions
    assert weights.shape == (num_texts, 1, LENGTH, NUM_REGIONS)
    for text, row in enumerate(tokens.tolist()):
        image = text // (num_texts // 2)
        count = int(regions.mask[image].sum())
        outputs, attentions = written_out(decoder, list(regions.features[image, :count]), row)
        torch.testing.assert_close(decoded.last_hidden_state[text], outputs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(weights[text, 0, :, :count], attentions, atol=1e-5, rtol=1e-5)
        assert not weights[text, 0, :, count:].any()
    assert weights.amax() > 0.45  # attention chooses, so that a wrong one would show
    assert [states.shape[-1] for states in decoded.decoder_hidden_states] == [10, HIDDEN_SIZE]


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "left padded"])
@EVERY_DECODER
@torch.no_grad()
def test_cache_changes_nothing(kind, padded, step):
    decoder = build(kind)
    tokens, memory = some_tokens(), decoder.encode(some_regions())
    mask = torch.ones_like(tokens)
    mask[-1, :2] = 0 if padded else 1
    whole = decoder(tokens, memory, attention_mask=mask)
    assert whole.cache is None
    cache, pieces = None, []
    for start in range(0, LENGTH, step):
        stop = min(start + step, LENGTH)
        decoded = decoder(tokens[:, start:stop], memory, attention_mask=mask[:, :stop], cache=cache, use_cache=True)
        cache = decoded.cache
        pieces.append(decoded.last_hidden_state)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole.last_hidden_state, atol=1e-5, rtol=1e-5)
    assert cache.get_seq_length() == LENGTH
    if padded:  # as if the padding weren't there
        alone = decoder(tokens[1:, 2:], decoder.encode(one_image(some_regions(), 1))).last_hidden_state
        torch.testing.assert_close(whole.last_hidden_state[1:, 2:], alone, atol=1e-5, rtol=1e-5)


def test_a_state_cannot_go_back_and_starts_anew_when_reset():
    cache = ButdRecurrentCache()
    cache.layers[0].update(torch.ones(2, 4, 3), 5)
    assert (cache.get_seq_length(), cache.get_max_length()) == (5, -1)
    assert not cache.is_croppable and not cache.is_compileable
    cache.crop(0)
    with pytest.raises(ValueError, match="forget its last 2 words"):
        cache.crop(-2)
    cache.batch_select_indices(torch.tensor([1]))
    assert cache.layers[0].keys.shape == (1, 4, 3)
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.layers[0].keys is None


@EVERY_DECODER
def test_what_does_not_fit_is_refused(kind):
    decoder = build(kind)
    memory = decoder.encode(some_regions())
    with pytest.raises(ValueError, match=r"3 rows.*multiple of the 2 images"):
        decoder(some_tokens(3), memory)
    with pytest.raises(ValueError, match="`cache` is a DynamicCache, expected the ButdRecurrentCache"):
        decoder(some_tokens(), memory, cache=DynamicCache())


def whole_model(kind: tuple[str, str], **changes) -> ButdForConditionalGeneration:
    torch.manual_seed(0)
    decoder, variant = kind
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": HIDDEN_SIZE, "attention_size": 7}
    return ButdForConditionalGeneration(
        ButdConfig(
            bottom_up_config={"selector": "given", "region_size": REGION_SIZE},
            top_down_config={"decoder": decoder, "recurrent_variant": variant, **sizes, **changes},
        )
    )


@pytest.mark.parametrize(("variant", "bias"), [("paper", 1.0), ("port", 0.0)])
def test_forget_gates_of_the_paper_begin_open(tmp_path, variant, bias):
    model = whole_model(("lstm", variant))
    for lstm in (model.model.top_down.cell.attention_lstm, model.model.top_down.cell.language_lstm):
        into, forget, new, out = (lstm.bias_ih + lstm.bias_hh).view(4, -1)
        assert (forget == bias).all()
        assert not torch.stack([into, new, out]).any()
        assert lstm.weight_ih.abs().max() <= HIDDEN_SIZE**-0.5
    with torch.no_grad():
        model.model.top_down.cell.attention_lstm.bias_ih.fill_(3.0)
    model.save_pretrained(tmp_path)
    loaded = ButdForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


def test_the_begin_token_is_learned_even_if_it_pads():
    assert whole_model(("lstm", "port")).model.top_down.embed_tokens.padding_idx == 0
    model = whole_model(("lstm", "port"), bos_token_id=0, eos_token_id=0)
    assert model.model.top_down.embed_tokens.padding_idx is None
    assert model.model.top_down.embed_tokens.weight[0].any()


def test_a_model_of_given_regions_reads_neither_pixels_nor_boxes():
    model = whole_model(("lstm", "paper")).eval()
    with pytest.raises(ValueError, match=r"no backbone.*`region_features` \(batch_size, num_regions, 12\)"):
        model(pixel_values=torch.zeros(1, 3, 64, 64))
    outputs = model(region_features=some_regions().features)
    assert torch.equal(outputs.regions.boxes[0, 0], torch.tensor([0.0, 0.0, 1.0, 1.0]))
