# SPDX-License-Identifier: Apache-2.0
"""hengyuan-hu's VQA models: synthetic checkpoints under the port's names, against its forward pass written out."""

import json
import pickle

import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import butd_hf
from butd_hf.cli import app
from butd_hf.conversion.checkpoint_folder import convert_checkpoint
from butd_hf.conversion.checkpoint_kind import ConversionOptions
from butd_hf.conversion.question_answering import build_tokenizer
from butd_hf.conversion.sources import ConversionError


WORDS = ["what", "is", "the", "man's", "man", "'s", "dog", "wearing", "on", "red"]
ANSWERS = ["yes", "no", "hat", "2", "red"]
HIDDEN, EMBEDDING, REGION, LONGEST = 8, 6, 7, 14
QUESTIONS = [
    "What is the man's dog wearing?",
    "is, it on???",
    "",
    "what is the dog on the red red red red red red red red red red is is is is",
]


def port_tensors(newatt: bool, seed: int = 0) -> dict[str, torch.Tensor]:
    """A checkpoint of the port's, far enough from zero for answers that differ."""
    generator = torch.Generator().manual_seed(seed)
    linears = {
        "v_att.linear": (1, HIDDEN),
        "q_net.main.0": (HIDDEN, HIDDEN),
        "v_net.main.0": (HIDDEN, REGION),
        "classifier.main.0": (2 * HIDDEN, HIDDEN),
        "classifier.main.3": (len(ANSWERS), 2 * HIDDEN),
    }
    if newatt:
        linears |= {"v_att.v_proj.main.0": (HIDDEN, REGION), "v_att.q_proj.main.0": (HIDDEN, HIDDEN)}
    else:
        linears |= {"v_att.nonlinear.main.0": (HIDDEN, REGION + HIDDEN)}
    shapes = {
        "w_emb.emb.weight": (len(WORDS) + 1, EMBEDDING),
        "q_emb.rnn.weight_ih_l0": (3 * HIDDEN, EMBEDDING),
        "q_emb.rnn.weight_hh_l0": (3 * HIDDEN, HIDDEN),
        "q_emb.rnn.bias_ih_l0": (3 * HIDDEN,),
        "q_emb.rnn.bias_hh_l0": (3 * HIDDEN,),
    }
    for name, shape in linears.items():
        shapes |= {f"{name}.bias": shape[:1], f"{name}.weight_g": (), f"{name}.weight_v": shape}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        if name.endswith("weight_g"):
            tensor.abs_().add_(3)  # no norm is negative
    tensors["w_emb.emb.weight"][-1] = 0  # torch's padding_idx
    return tensors


def literal_answer(t: dict[str, torch.Tensor], question: str, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The port's logits and attention for one question and one image, operation by operation, from its own names."""

    def linear(name, x):
        matrix = t[f"{name}.weight_v"]
        return x @ (t[f"{name}.weight_g"] * matrix / matrix.pow(2).sum().sqrt()).T + t[f"{name}.bias"]

    cleaned = question.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    tokens = [WORDS.index(word) if word in WORDS else len(WORDS) for word in cleaned.split()][:LONGEST]
    tokens = [len(WORDS)] * (LONGEST - len(tokens)) + tokens
    hidden = torch.zeros(HIDDEN)
    for token in tokens:
        given = t["q_emb.rnn.weight_ih_l0"] @ t["w_emb.emb.weight"][token] + t["q_emb.rnn.bias_ih_l0"]
        kept = t["q_emb.rnn.weight_hh_l0"] @ hidden + t["q_emb.rnn.bias_hh_l0"]
        (reset, update, new), (old_reset, old_update, old_new) = given.split(HIDDEN), kept.split(HIDDEN)
        update = torch.sigmoid(update + old_update)
        new = torch.tanh(new + torch.sigmoid(reset + old_reset) * old_new)
        hidden = (1 - update) * new + update * hidden
    if "v_att.v_proj.main.0.bias" in t:
        joint = linear("v_att.v_proj.main.0", v).relu() * linear("v_att.q_proj.main.0", hidden).relu()
    else:
        joint = linear("v_att.nonlinear.main.0", torch.cat([v, hidden.expand(len(v), -1)], dim=1)).relu()
    attention = linear("v_att.linear", joint)[:, 0].softmax(0)
    seen = (attention[:, None] * v).sum(0)
    joint = linear("q_net.main.0", hidden).relu() * linear("v_net.main.0", seen).relu()
    return linear("classifier.main.3", linear("classifier.main.0", joint).relu()), attention


@pytest.fixture(scope="module", params=[False, True], ids=["baseline0", "baseline0_newatt"])
def converted(request, tmp_path_factory):
    """Tensors of the port, and the folder that they were converted to."""
    folder = tmp_path_factory.mktemp("vqa")
    tensors = port_tensors(request.param)
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, folder / "model.pth")
    dictionary = [{word: index for index, word in enumerate(WORDS)}, WORDS]
    (folder / "dictionary.pkl").write_bytes(pickle.dumps(dictionary, protocol=2))
    (folder / "trainval_label2ans.pkl").write_bytes(pickle.dumps(ANSWERS, protocol=2))
    arguments = ["convert", folder / "model.pth", "--to", folder / "converted"]
    arguments += ["--vocabulary", folder / "dictionary.pkl", "--answers", folder / "trainval_label2ans.pkl"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return tensors, folder / "converted"


@torch.no_grad()
def test_answers_and_attention_are_the_ports(converted):
    tensors, folder = converted
    model = butd_hf.ButdForQuestionAnswering.from_pretrained(folder).eval()
    processor = butd_hf.ButdProcessor.from_pretrained(folder)
    values = torch.randn(len(QUESTIONS), 5, REGION) * 2
    mask = torch.arange(5)[None] < torch.tensor([5, 3, 4, 5])[:, None]
    inputs = processor(text=QUESTIONS, return_tensors="pt")
    outputs = model(region_features=values, region_mask=mask, **inputs)
    for row, question in enumerate(QUESTIONS):
        logits, attention = literal_answer(tensors, question, values[row, mask[row]])
        torch.testing.assert_close(outputs.logits[row], logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outputs.region_attentions[row, 0, mask[row]], attention, atol=1e-6, rtol=1e-5)
        assert not outputs.region_attentions[row, 0, ~mask[row]].any()
        alone = processor(text=question, return_tensors="pt")
        single = model(region_features=values[row : row + 1], region_mask=mask[row : row + 1], **alone)
        torch.testing.assert_close(single.logits, outputs.logits[row : row + 1], atol=1e-5, rtol=1e-5)
    assert outputs.logits.std(dim=0).min() > 1e-3  # so that a wrong answer would show
    assert outputs.region_attentions[0].amax() > 3 * outputs.region_attentions[0].amin() > 0


def test_the_folder_is_complete(converted):
    tensors, folder = converted
    config = butd_hf.ButdConfig.from_pretrained(folder)
    variant = "baseline0_newatt" if "v_att.v_proj.main.0.bias" in tensors else "baseline0"
    assert config.top_down_config.question_variant == variant
    assert list(config.id2label.values()) == ANSWERS
    assert ModelCard.load(folder / "README.md").data.pipeline_tag == "visual-question-answering"
    assert (folder / "modeling_question_answering_butd.py").is_file()
    assert (folder / "pipelines_visual_question_answering.py").is_file()


def test_questions_are_cleaned_up_as_the_port_does():
    tokenizer = build_tokenizer(WORDS)
    words = [WORDS[token] if token < len(WORDS) else None for token in tokenizer(QUESTIONS[0])["input_ids"]]
    assert words == ["what", "is", "the", "man", "'s", "dog", "wearing"]
    assert tokenizer("is it red")["input_ids"] == [1, len(WORDS), 9]
    assert tokenizer(["is", "is it red"], padding=True)["attention_mask"] == [[0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({"q_net.main.0.weight_g": None}, "missing: q_net.main.0.weight_g ()"),
        ({"q_net.main.0.weight_g": torch.ones(HIDDEN, 1)}, "misshapen: q_net.main.0.weight_g (8, 1), expected ()"),
        ({"v_att.nonlinear.main.0.bias": torch.zeros(1)}, "not known: v_att.nonlinear.main.0.bias (1,)"),
        ({"w_emb.emb.weight": torch.ones(len(WORDS) + 1, EMBEDDING)}, "padding, expected zeros"),
    ],
)
def test_what_does_not_fit_is_listed(tmp_path, changes, listed):
    tensors = {name: value for name, value in {**port_tensors(True), **changes}.items() if value is not None}
    torch.save(tensors, tmp_path / "model.pth")
    with pytest.raises(ConversionError) as refusal:
        convert_checkpoint(tmp_path / "model.pth", tmp_path / "converted")
    assert listed in str(refusal.value)
    assert not (tmp_path / "converted").exists()


def test_lists_must_fit(tmp_path):
    torch.save(port_tensors(True), tmp_path / "model.pth")

    def refusal(words=None, answers=None):
        options = {}
        for name, content in (("vocabulary", words), ("answers", answers)):
            if content is not None:
                options[name] = tmp_path / f"{name}.json"
                options[name].write_text(json.dumps(content))
        with pytest.raises(ConversionError) as error:
            convert_checkpoint(tmp_path / "model.pth", tmp_path / "converted", ConversionOptions(**options))
        return str(error.value)

    assert "--vocabulary" in refusal()
    assert "has 3 words" in refusal(WORDS[:3])
    assert "words twice: what" in refusal(["what", *WORDS[:-1]])
    assert "holds no list of words" in refusal({"0": "what"})
    assert "has 6 answers" in refusal(WORDS, [*ANSWERS, "maybe"])
    options = ConversionOptions(vocabulary=tmp_path / "vocabulary.json")
    (tmp_path / "vocabulary.json").write_text(json.dumps(WORDS))
    convert_checkpoint(tmp_path / "model.pth", tmp_path / "converted", options)
    assert "Its answers have no names" in (tmp_path / "converted" / "README.md").read_text()


def test_a_bottom_up_half_gives_it_eyes(tmp_path, tiny_checkpoint):
    options = ConversionOptions(vocabulary=tmp_path / "words.json", bottom_up=tiny_checkpoint)
    (tmp_path / "words.json").write_text(json.dumps(WORDS))
    torch.save(port_tensors(True), tmp_path / "model.pth")
    with pytest.raises(ConversionError, match=f"wants {REGION}"):
        convert_checkpoint(tmp_path / "model.pth", tmp_path / "converted", options)
    seeing = butd_hf.ButdModel.from_pretrained(tiny_checkpoint)
    region = seeing.bottom_up.region_size
    tensors = port_tensors(True)
    for name in ("v_att.v_proj.main.0.weight_v", "v_net.main.0.weight_v"):
        tensors[name] = torch.randn(HIDDEN, region)
    torch.save(tensors, tmp_path / "model.pth")
    convert_checkpoint(tmp_path / "model.pth", tmp_path / "converted", options)
    model = butd_hf.ButdForQuestionAnswering.from_pretrained(tmp_path / "converted").eval()
    pixels = torch.randn(1, 3, 64, 64)
    seen, expected = model.encode_image(pixels).regions, seeing.eval().encode(pixels).regions
    torch.testing.assert_close(seen.features, expected.features)
