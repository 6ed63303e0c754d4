# SPDX-License-Identifier: Apache-2.0
"""ruotianluo's Up-Down: synthetic checkpoints under the port's names, against its forward pass written out."""

import argparse
import itertools
import json
import pickle

import pytest
import torch
from huggingface_hub import ModelCard

import butd_hf
from butd_hf.conversion.checkpoint_folder import convert_checkpoint
from butd_hf.conversion.checkpoint_kind import ConversionOptions
from butd_hf.conversion.published_vocabulary import PublishedVocabulary, build_tokenizer, read_vocabulary
from butd_hf.conversion.sources import ConversionError
from butd_hf.conversion.up_down_captioner import build_model, find_sizes


WORDS = ["a", "dog", "man", "runs", "on", "the", "grass", "red", "mans", "UNK"]
HIDDEN, EMBEDDING, ATTENTION, REGION, LONGEST = 8, 6, 5, 7, 6
COUNTS = (4, 2)  # regions of the two images


def port_tensors(use_bn: bool = False, region: int = REGION, seed: int = 22) -> dict[str, torch.Tensor]:
    """A checkpoint of the port's, far enough from zero for captions that differ."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary, linear = len(WORDS) + 1, "att_embed.1" if use_bn else "att_embed.0"
    shapes = {
        "embed.0.weight": (vocabulary, EMBEDDING),
        "fc_embed.0.weight": (HIDDEN, region),
        "fc_embed.0.bias": (HIDDEN,),
        f"{linear}.weight": (HIDDEN, region),
        f"{linear}.bias": (HIDDEN,),
        "core.att_lstm.weight_ih": (4 * HIDDEN, EMBEDDING + 2 * HIDDEN),
        "core.att_lstm.weight_hh": (4 * HIDDEN, HIDDEN),
        "core.att_lstm.bias_ih": (4 * HIDDEN,),
        "core.att_lstm.bias_hh": (4 * HIDDEN,),
        "core.lang_lstm.weight_ih": (4 * HIDDEN, 2 * HIDDEN),
        "core.lang_lstm.weight_hh": (4 * HIDDEN, HIDDEN),
        "core.lang_lstm.bias_ih": (4 * HIDDEN,),
        "core.lang_lstm.bias_hh": (4 * HIDDEN,),
        "core.attention.h2att.weight": (ATTENTION, HIDDEN),
        "core.attention.h2att.bias": (ATTENTION,),
        "core.attention.alpha_net.weight": (1, ATTENTION),
        "core.attention.alpha_net.bias": (1,),
        "ctx2att.weight": (ATTENTION, HIDDEN),
        "ctx2att.bias": (ATTENTION,),
        "logit.weight": (vocabulary, HIDDEN),
        "logit.bias": (vocabulary,),
    }
    if use_bn:
        shapes |= {f"att_embed.0.{name}": (region,) for name in ("weight", "bias", "running_mean", "running_var")}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name in ("embed.0.weight", "logit.weight"):  # words say more than the output's bias
        tensors[name] *= 2
    if use_bn:
        tensors["att_embed.0.running_var"] = tensors["att_embed.0.running_var"].abs()
        tensors["att_embed.0.num_batches_tracked"] = torch.tensor(3)
    return tensors


def infos(words: list[str] = WORDS, **options) -> dict:
    opt = argparse.Namespace(caption_model="topdown", rnn_size=HIDDEN, seq_length=LONGEST, drop_prob_lm=0.4, **options)
    return {"iter": 7, "opt": opt, "vocab": {str(index): word for index, word in enumerate(words, start=1)}}


def features() -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.randn(len(COUNTS), max(COUNTS), REGION, generator=torch.Generator().manual_seed(6))
    return values, torch.arange(max(COUNTS))[None] < torch.tensor(COUNTS)[:, None]


class PortStep:
    """The port's forward pass for one image, operation by operation, from its own names."""

    def __init__(self, tensors: dict[str, torch.Tensor], regions: torch.Tensor, mask: torch.Tensor):
        self.t, self.mask = tensors, mask.float()
        self.fc = self.linear("fc_embed.0", regions[mask].mean(0)).relu()
        if "att_embed.0.running_mean" in tensors:
            t = tensors
            regions = (regions - t["att_embed.0.running_mean"]) / (t["att_embed.0.running_var"] + 1e-5).sqrt()
            regions = regions * t["att_embed.0.weight"] + t["att_embed.0.bias"]
            self.att = self.linear("att_embed.1", regions).relu()
        else:
            self.att = self.linear("att_embed.0", regions).relu()
        self.p_att = self.linear("ctx2att", self.att)
        self.start = (torch.zeros(HIDDEN),) * 4

    def linear(self, name, x):
        return x @ self.t[f"{name}.weight"].T + self.t[f"{name}.bias"]

    def lstm(self, name, x, hidden, cell):
        t = self.t
        gates = t[f"{name}.weight_ih"] @ x + t[f"{name}.bias_ih"]
        gates = gates + t[f"{name}.weight_hh"] @ hidden + t[f"{name}.bias_hh"]
        into, forget, new, out = gates.split(HIDDEN)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(into) * torch.tanh(new)
        return torch.sigmoid(out) * torch.tanh(cell), cell

    def __call__(self, word: int, states):
        h_att, c_att, h_lang, c_lang = states
        embedded = self.t["embed.0.weight"][word].relu()
        h_att, c_att = self.lstm("core.att_lstm", torch.cat([h_lang, self.fc, embedded]), h_att, c_att)
        dot = torch.tanh(self.p_att + self.linear("core.attention.h2att", h_att))
        weight = self.linear("core.attention.alpha_net", dot)[:, 0].softmax(0) * self.mask
        weight = weight / weight.sum()
        attended = sum(share * region for share, region in zip(weight, self.att, strict=True))
        h_lang, c_lang = self.lstm("core.lang_lstm", torch.cat([attended, h_att]), h_lang, c_lang)
        return self.linear("logit", h_lang), weight, (h_att, c_att, h_lang, c_lang)


def slow_beam_search(step: PortStep, beams: int, longest: int, stop_words: set[int] | None = None) -> list[int]:
    """The likeliest of the captions that a beam search meets, by the sum of log probabilities.

    Of all continuations the best are kept: those that end are finished, the best `beams` that don't go on.
    """
    alive, finished = [(0.0, [0], step.start)], []
    for _ in range(longest):
        candidates = []
        for score, words, states in alive:
            logits, _, after = step(words[-1], states)
            log_probabilities = logits.log_softmax(0)
            for word, log_probability in enumerate(log_probabilities.tolist()):
                if stop_words is None or word == 0 or word in stop_words or word not in words:
                    candidates.append((score + log_probability, [*words, word], after))
        candidates.sort(key=lambda candidate: -candidate[0])
        finished += [candidate for candidate in candidates[:beams] if candidate[1][-1] == 0]
        alive = [candidate for candidate in candidates if candidate[1][-1] != 0][:beams]
    return max(finished + alive, key=lambda candidate: candidate[0])[1]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "batch norm"])
def converted(request, tmp_path_factory):
    """Tensors of the port, and the folder that they were converted to."""
    folder = tmp_path_factory.mktemp("up_down")
    tensors = port_tensors(request.param)
    torch.save(tensors, folder / "model-best.pth")
    (folder / "infos-best.pkl").write_bytes(pickle.dumps(infos(), protocol=2))
    options = ConversionOptions(vocabulary=folder / "infos-best.pkl")
    convert_checkpoint(folder / "model-best.pth", folder / "converted", options)
    return tensors, folder / "converted"


@pytest.fixture(scope="module")
def model(converted):
    return butd_hf.ButdForConditionalGeneration.from_pretrained(converted[1]).eval()


@torch.no_grad()
def test_logits_and_attention_are_the_ports(converted, model):
    values, mask = features()
    tokens = torch.tensor([[0, 2, 4, 7, 1], [0, 3, 4, 10, 10]])
    outputs = model(region_features=values, region_mask=mask, input_ids=tokens, output_attentions=True)
    for image in range(2):
        step = PortStep(converted[0], values[image], mask[image])
        states = step.start
        for place, word in enumerate(tokens[image].tolist()):
            logits, weight, states = step(word, states)
            torch.testing.assert_close(outputs.logits[image, place], logits, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(outputs.region_attentions[image, place], weight, atol=1e-5, rtol=1e-5)
    assert outputs.region_attentions.amax() > 0.5  # so that a wrong attention would show


def test_captions_are_those_of_a_slow_beam_search():
    values, mask = features()
    captions = {beams: [] for beams in (1, 2, 3, 5)}
    for seed, use_bn in itertools.product((3, 13, 22), (False, True)):
        tensors = port_tensors(use_bn, seed=seed)
        bottom_up = {"selector": "given", "region_size": REGION}
        model = build_model(tensors, find_sizes(tensors), PublishedVocabulary(WORDS), bottom_up).eval()
        steps = [PortStep(tensors, values[image], mask[image]) for image in range(2)]
        for beams, found in captions.items():
            generated = model.generate(
                region_features=values, region_mask=mask, num_beams=beams, max_new_tokens=LONGEST
            ).tolist()
            expected = [slow_beam_search(step, beams, LONGEST) for step in steps]
            assert [without_padding(row) for row in generated] == [without_padding(row) for row in expected]
            found += [tuple(without_padding(row)) for row in generated]
    # these weights tell searches apart: captions that end at once, later and never, others with more beams
    assert {len(caption) for caption in captions[1]} >= {0, 2, LONGEST}
    assert len(set(captions[5])) > 3
    assert captions[1] != captions[2] != captions[3]


def without_padding(caption: list[int]) -> list[int]:
    words = caption[1:]
    return words[: words.index(0)] if 0 in words else words


def test_settings_are_the_ports(converted, model):
    config, generation = model.config, model.generation_config
    assert (config.top_down_config.decoder, config.top_down_config.recurrent_variant) == ("lstm", "port")
    assert (config.bottom_up_config.selector, config.bottom_up_config.region_size) == ("given", REGION)
    assert (config.top_down_config.dropout, config.tie_word_embeddings) == (0.4, False)
    assert (generation.max_new_tokens, generation.num_beams, generation.length_penalty) == (LONGEST, 5, 0.0)
    assert {generation.bos_token_id, generation.eos_token_id, generation.pad_token_id} == {0}
    card = ModelCard.load(converted[1] / "README.md").text
    assert "butd-hf convert model-best.pth --to converted --vocabulary infos-best.pkl" in card
    assert f"regions with {REGION} features" in card and "pipeline(" not in card and "lstm" in card
    for name in (
        "top_down_recurrent.py",
        "top_down_recurrent.py",
        "processor_config.json",
    ):
        assert (converted[1] / name).is_file()


def test_the_processor_reads_and_writes_the_ports_words(converted, model):
    processor = butd_hf.ButdProcessor.from_pretrained(converted[1])
    assert processor.tokenizer("A man's  red zebra!")["input_ids"] == [0, 1, 9, 8, 10]
    assert processor.batch_decode([[0, 2, 4, 5, 6, 7, 0, 0]], skip_special_tokens=True) == ["dog runs on the grass"]
    encoded = processor.encode_captions(["a dog", "the man runs"])
    assert encoded["input_ids"].tolist() == [[0, 1, 2, 0], [0, 6, 3, 4]]
    assert encoded["labels"].tolist() == [[1, 2, 0, -100], [6, 3, 4, 0]]
    values, mask = features()
    begun = processor(text=["a", "the red"], return_tensors="pt")
    captions = model.generate(region_features=values, region_mask=mask, **begun, max_new_tokens=3)
    texts = processor.batch_decode(captions, skip_special_tokens=True)
    assert texts[0].startswith("a") and texts[1].startswith("the red")


def test_regions_from_a_named_bottom_up(tmp_path, tiny_checkpoint, image_paths):
    named = butd_hf.ButdForConditionalGeneration.from_pretrained(tiny_checkpoint)
    size = named.model.bottom_up.region_size
    torch.save(port_tensors(region=size), tmp_path / "model.pth")
    (tmp_path / "words.json").write_text(json.dumps({"ix_to_word": infos()["vocab"], "images": []}))
    options = ConversionOptions(vocabulary=tmp_path / "words.json", bottom_up=tiny_checkpoint)
    convert_checkpoint(tmp_path / "model.pth", tmp_path / "converted", options)
    model = butd_hf.ButdForConditionalGeneration.from_pretrained(tmp_path / "converted").eval()
    for name, tensor in named.model.bottom_up.state_dict().items():
        assert torch.equal(model.model.bottom_up.state_dict()[name], tensor)
    processor = butd_hf.ButdProcessor.from_pretrained(tmp_path / "converted")
    images = processor(images=image_paths[:2], return_tensors="pt")
    captions = model.generate(**images)
    regions = named.model.bottom_up(**images).regions
    ready = model.generate(region_features=regions.features, region_boxes=regions.boxes, region_mask=regions.mask)
    assert torch.equal(captions, ready)

    torch.save(port_tensors(), tmp_path / "model.pth")
    with pytest.raises(ConversionError, match=rf"regions of size {size}, .*model\.pth wants {REGION}"):
        convert_checkpoint(tmp_path / "model.pth", tmp_path / "other", options)


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({"ctx2att.bias": None}, ["missing: ctx2att.bias (5,)"]),
        ({"embed.0.weight": None}, ["missing: embed.0.weight (9488, 1000)"]),
        ({"fc_embed.0.weight": torch.zeros(HIDDEN, 9)}, ["misshapen: fc_embed.0.weight (8, 9), expected (8, 7)"]),
        (
            {"att_embed.4.weight": torch.zeros(HIDDEN), "core.att_lstm.bias_hh": torch.zeros(3)},
            ["not known: att_embed.4.weight (8,)", "misshapen: core.att_lstm.bias_hh (3,), expected (32,)"],
        ),
    ],
)
def test_what_does_not_fit_is_listed(tmp_path, changes, listed):
    tensors = {name: value for name, value in {**port_tensors(), **changes}.items() if value is not None}
    torch.save(tensors, tmp_path / "model.pth")
    with pytest.raises(ConversionError) as refusal:
        convert_checkpoint(tmp_path / "model.pth", tmp_path / "converted")
    assert "looks like an Up-Down captioner" in str(refusal.value)
    assert all(line in str(refusal.value) for line in listed)
    assert not (tmp_path / "converted").exists()


def test_the_vocabulary_must_fit(tmp_path):
    torch.save(port_tensors(), tmp_path / "model.pth")

    def refusal(content=None):
        options = None
        if content is not None:
            (tmp_path / "infos.pkl").write_bytes(pickle.dumps(content))
            options = ConversionOptions(vocabulary=tmp_path / "infos.pkl")
        with pytest.raises(ConversionError) as error:
            convert_checkpoint(tmp_path / "model.pth", tmp_path / "converted", options)
        return str(error.value)

    assert "--vocabulary" in refusal()
    assert "has 3 words" in refusal(infos(WORDS[:3])) and "knows 10" in refusal(infos(WORDS[:3]))
    assert "eos_idx is 2, expected 0" in refusal(infos(eos_idx=2))
    assert "words twice: a" in refusal(infos(["a", *WORDS[:-1]]))
    assert "infos.pkl cannot be read" in refusal(torch.nn.Linear)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"1": "a", "3": "b"}, "indices must be 1 to 2, got 1, 3"),
        ({"vocab": {"0": "a"}}, "indices must be 1 to 1, got 0"),
        ({"vocab": {}}, "indices must be"),
        ({"1": "a", "2": ""}, "every index needs a word"),
        ({"a": 1}, "no table from indices to words"),
        (["a", "b"], "holds a list"),
    ],
)
def test_vocabularies_with_gaps_are_refused(tmp_path, content, message):
    (tmp_path / "words.json").write_text(json.dumps(content))
    with pytest.raises(ConversionError, match=message):
        read_vocabulary(tmp_path / "words.json")


def test_vocabularies_without_an_unknown_word():
    tokenizer = build_tokenizer(["a", "dog"], 16)
    assert tokenizer("a dog")["input_ids"] == [0, 1, 2]
    assert tokenizer.unk_token is None
