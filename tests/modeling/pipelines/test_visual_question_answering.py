# SPDX-License-Identifier: Apache-2.0
import copy

import PIL.Image
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
    ViltConfig,
    ViltForQuestionAnswering,
    ViltImageProcessor,
    ViltProcessor,
    pipeline,
)

import butd_hf


QUESTION, OTHER = "two cats sit on a red mat", "a man is riding a horse"
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def oracle(tiny_oracle):
    return pipeline("visual-question-answering", model=tiny_oracle, device="cpu")


@pytest.fixture(scope="module")
def answers(oracle, image_paths):
    """One by one, what everything else is compared with: by question, then by image."""
    return {asked: [oracle(image=path, question=asked) for path in image_paths] for asked in (QUESTION, OTHER)}


def same(got, expected):
    """Whether answers are the same, with scores to rounding."""
    assert [[each["answer"] for each in row] for row in got] == [[each["answer"] for each in row] for row in expected]
    scores = [torch.tensor([[each["score"] for each in row] for row in rows]) for rows in (got, expected)]
    torch.testing.assert_close(*scores, atol=1e-5, rtol=0)
    return True


def test_answers_have_scores(oracle, answers):
    assert type(oracle) is butd_hf.VisualQuestionAnsweringPipeline
    for row in (*answers[QUESTION], *answers[OTHER]):
        scores = [each["score"] for each in row]
        assert len(row) == 5 and all(set(each) == {"score", "answer"} for each in row)
        assert scores == sorted(scores, reverse=True) and 0 < scores[-1] < scores[0] < 1
        assert {each["answer"] for each in row} < set(oracle.model.config.id2label.values())
    assert answers[QUESTION] != answers[OTHER]  # questions matter, and so do images
    assert answers[QUESTION][0] != answers[QUESTION][1]


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_call_forms_of_version_4(oracle, image_paths, answers, batch_size):
    options = {"batch_size": batch_size}
    images = [PIL.Image.open(path) for path in image_paths]
    assert same(oracle(image_paths, QUESTION, **options), answers[QUESTION])
    assert same(oracle(image=images, question=QUESTION, **options), answers[QUESTION])
    assert same(
        oracle(image_paths[1], [QUESTION, OTHER], **options), [answers[asked][1] for asked in (QUESTION, OTHER)]
    )
    assert same(oracle(image_paths, [QUESTION, OTHER], **options), answers[QUESTION] + answers[OTHER])
    assert same([oracle({"image": image_paths[0], "question": OTHER}, **options)], answers[OTHER][:1])
    asked = [{"image": path, "question": OTHER} for path in image_paths]
    assert same(oracle(asked, **options), answers[OTHER])
    assert same(oracle(tuple(asked), **options), answers[OTHER])
    assert same(list(oracle((each for each in asked), **options)), answers[OTHER])
    assert oracle([], QUESTION) == oracle([]) == []


def test_top_k(oracle, image_paths, answers):
    for top_k in (1, 3):
        same([oracle(image_paths[0], QUESTION, top_k=top_k)], [answers[QUESTION][0][:top_k]])
    assert len(oracle(image_paths[0], QUESTION, top_k=100)) == oracle.model.config.num_labels
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        oracle(image_paths[0], QUESTION, top_k=0)


def test_one_right_answer_scores_by_softmax(tiny_oracle, image_paths, answers):
    model = butd_hf.ButdForQuestionAnswering.from_pretrained(tiny_oracle)
    model.config.problem_type = "single_label_classification"
    oracle = pipeline("vqa", model=model, processor=butd_hf.ButdProcessor.from_pretrained(tiny_oracle), device="cpu")
    found = oracle(image_paths[0], QUESTION, top_k=6)
    assert sum(each["score"] for each in found) == pytest.approx(1, abs=1e-5)
    assert [each["answer"] for each in found[:5]] == [each["answer"] for each in answers[QUESTION][0]]


@pytest.mark.parametrize("strange", ["", " ", "🦄🦄", "zyx", "a " * 10_000])
def test_strange_questions_have_answers_of_their_own(oracle, image_paths, strange, answers):
    alone = oracle(image_paths[0], strange)
    together = oracle(image_paths[0], [QUESTION, strange], batch_size=2)
    assert len(together) == 2 and len(alone) == 5
    same(together, [answers[QUESTION][0], alone])


def test_errors_say_which_item(oracle, image_paths, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    broken = str(tmp_path / "broken.png")
    with pytest.raises(ValueError, match=r"broken\.png.*what is this"):
        oracle([image_paths[0], broken], "what is this")
    with pytest.raises(ValueError, match=r"broken\.png.*asked\[1\]"):
        oracle([{"image": image_paths[0], "question": "a"}, {"image": broken, "question": "b"}])
    with pytest.raises(ValueError, match=r"question\[1\]: got int"):
        oracle(image_paths[0], ["a", 3])
    with pytest.raises(ValueError, match="question: got int"):
        oracle(image_paths[0], 3)
    with pytest.raises(ValueError, match=r"got \['image'\], expected a question"):
        oracle({"image": image_paths[0]})
    with pytest.raises(ValueError, match="got str, expected a question"):
        oracle(image_paths[0])
    with pytest.raises(ValueError, match="without an image"):
        oracle(question="a")


def other_models() -> dict:
    text = {**TINY, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = {**TINY, "image_size": 16, "patch_size": 8}
    blip = BlipConfig(
        text_config={**text, "sep_token_id": 2, "encoder_hidden_size": 16, "max_position_embeddings": 64},
        vision_config=vision,
        projection_dim=16,
        image_text_hidden_size=16,
    )
    vilt = ViltConfig(**text, image_size=32, patch_size=8, max_position_embeddings=40, num_labels=3)
    vilt.id2label = {0: "yes", 1: "no", 2: "maybe"}
    return {"blip": lambda: BlipForQuestionAnswering(blip), "vilt": lambda: ViltForQuestionAnswering(vilt)}


@pytest.mark.parametrize("name", ["blip", "vilt"])
def test_other_models(name, tiny_tokenizer, image_paths, tmp_path):
    tokenizer = PreTrainedTokenizerFast(  # as their tokenizers are: texts are enclosed in tokens
        tokenizer_object=copy.deepcopy(tiny_tokenizer.backend_tokenizer),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=40,
    )
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    other_models()[name]().save_pretrained(tmp_path)
    if name == "blip":
        processor = BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer)
    else:
        processor = ViltProcessor(ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8), tokenizer)
    processor.save_pretrained(tmp_path)
    oracle = pipeline("visual-question-answering", model=str(tmp_path), device="cpu")
    assert type(oracle) is butd_hf.VisualQuestionAnsweringPipeline
    options = {"generate_kwargs": {"max_new_tokens": 4}} if name == "blip" else {"top_k": 2}
    singles = [oracle(path, QUESTION, **options) for path in image_paths]
    for single in singles:
        assert isinstance(single[0]["answer"], str)
        assert len(single) == 1 and single[0]["score"] is None if name == "blip" else len(single) == 2
    together = oracle(image_paths, QUESTION, batch_size=3, **options)
    if name == "blip":
        assert together == singles
    else:
        assert [[set(each) for each in row] for row in together] == [[{"score", "answer"}] * 2] * 3
        assert {each["answer"] for row in together for each in row} <= {"yes", "no", "maybe"}
    assert oracle(image_paths[0], "a " * 10_000, **options)
    oracle.save_pretrained(tmp_path / "again")
    again = pipeline("vqa", model=str(tmp_path / "again"), device="cpu")
    assert again(image_paths[0], QUESTION, **options) == singles[0]
