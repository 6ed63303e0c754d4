# SPDX-License-Identifier: Apache-2.0
"""What goes for every command that runs a model on images, and what each of them prints."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image
from transformers import pipeline

import butd_hf


VERBS = {  # verb: fixture of its model, arguments after the image, what a result holds
    "caption": ("tiny_checkpoint", [], "caption"),
    "ask": ("tiny_oracle", ["what is it"], "answers"),
    "detect": ("tiny_detector", ["--threshold", 0], "objects"),
    "regions": ("tiny_detector", [], "regions"),
    "graph": ("tiny_grapher", ["--threshold", 0], "relations"),
}


@pytest.fixture(params=VERBS)
def verb(request):
    """A command, the arguments that follow its images, and the name of what it finds."""
    fixture, arguments, holds = VERBS[request.param]
    if fixture == "tiny_detector":
        model = request.getfixturevalue("tiny_detectors")[
            "segmentation" if request.param == "regions" else "detection"
        ]
    else:
        model = request.getfixturevalue(fixture)
    return request.param, [*arguments, "--model", model], holds


@pytest.fixture(scope="session")
def tiny_detectors(tmp_path_factory):
    """Folders of a detection and of a segmentation model that differ in their heads alone."""
    config = butd_hf.ButdConfig(
        bottom_up_config={
            "backbone": "test_efficientnet",
            "num_regions": 8,
            "min_regions": 4,
            "fpn_size": 16,
            "region_head_size": 16,
            "num_region_labels": 2,
            "num_region_attributes": 3,
        },
        top_down_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        id2label={0: "square", 1: "disc"},
        label2id={"square": 0, "disc": 1},
    )
    models = {"detection": butd_hf.ButdForObjectDetection, "segmentation": butd_hf.ButdForInstanceSegmentation}
    folders = {}
    for name, model_class in models.items():
        folders[name] = str(tmp_path_factory.mktemp("detector"))
        model_class(config).save_pretrained(folders[name])
        butd_hf.ButdImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folders[name])
    return folders


@pytest.fixture
def images(image_paths, tmp_path):
    """A folder of three images and a file that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in image_paths:
        shutil.copy(path, folder)
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_unreadable_images_are_named_and_the_others_are_drawn(call, verb, images, tmp_path):
    name, arguments, holds = verb
    (images / "image_1.png").write_bytes(b"nothing")
    figure = tmp_path / "figures" / "out.png"
    result = call(name, images, *arguments, "--json", "--batch-size", 2, "--draw", figure, code=1)
    assert "image_1.png" in result.stderr
    first, broken, third = json.loads(result.stdout)
    assert "cannot read" in broken["error"] and holds not in broken
    for number, found in ((1, first), (3, third)):
        assert found[holds] and found["image"] == str(images / f"image_{number - 1}.png")
        assert found["drawing"] == str(figure.with_name(f"out-{number}.png"))
        assert Image.open(found["drawing"]).width > 300
    assert sorted(file.name for file in figure.parent.iterdir()) == ["out-1.png", "out-3.png"]
    alone = json.loads(call(name, images / "image_0.png", *arguments, "--json").stdout)
    assert alone[0]["image"] == first["image"] and len(alone[0][holds]) == len(first[holds])


def test_tables_have_a_line_per_result(call, verb, images):
    name, arguments, holds = verb
    arguments = [*arguments, "--json"]
    (found,) = json.loads(call(name, images / "image_0.png", *arguments).stdout)
    output = call(name, images / "image_0.png", *arguments[:-1]).stdout
    count = len(found[holds]) if isinstance(found[holds], list) else 1
    assert output.count("image_0.png") == count


def test_wrong_usage_is_named(call, plain, verb, images, tiny_checkpoint, tiny_grapher, tmp_path):
    name, arguments, _ = verb
    arguments = arguments[:-2]
    assert "no such file" in plain(call(name, "missing.jpg", *arguments, code=2).stderr)
    assert "suffix" in plain(call(name, images, *arguments, "--draw", "figure.nothing", code=2).stderr)
    assert "--device" in call(name, images, *arguments, "--device", "abacus", code=2).stderr
    assert "cannot load" in plain(call(name, images, *arguments, "--model", tmp_path, code=2).stderr)
    if name != "regions":
        other = tiny_checkpoint if name == "graph" else tiny_grapher
        expected = butd_hf.ButdForConditionalGeneration if name == "graph" else butd_hf.ButdForSceneGraphGeneration
        refusal = plain(call(name, images, *arguments, "--model", other, code=2).stderr)
        assert f"it holds a {expected.__name__}, expected a ButdFor" in refusal
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    assert "it is a 'blip' model" in plain(call(name, images, *arguments, "--model", tmp_path, code=2).stderr)


def test_images_are_listed(call, plain, images, tiny_checkpoint):
    from butd_hf.cli.images import list_images

    names = [str(images / f"image_{number}.png") for number in range(3)]
    (images / "[c].png").write_bytes(Path(names[0]).read_bytes())
    odd = str(images / "[c].png")
    assert list_images([str(images)]) == [odd, *names]
    assert list_images([str(images / "image_[12].png"), odd]) == [*names[1:], odd]  # a file that looks like a pattern
    assert list_images([str(images.parent / "**" / "*_0.png")]) == names[:1]
    assert list_images(["https://example.org/a", names[1]]) == ["https://example.org/a", names[1]]
    (images / "empty").mkdir()
    for nothing in (images / "empty", images / "*.webp"):
        assert "no image in folder or pattern" in plain(call("caption", nothing, code=2).stderr)


def test_captions(call, images, tiny_checkpoint):
    options = ["--model", tiny_checkpoint, "--json", "--prompt", "a", "--num-beams", 1, "--max-new-tokens", 3]
    captions = [entry["caption"].split() for entry in json.loads(call("caption", images, *options).stdout)]
    assert all(words[0] == "a" and len(words) <= 4 for words in captions) and len(captions) == 3
    assert "--num-beams" in call("caption", images, "--num-beams", 0, code=2).stderr


def test_answers_are_those_of_the_pipeline(call, plain, images, tiny_oracle, tiny_tokenizer, tmp_path):
    image = images / "image_0.png"
    (entry,) = json.loads(call("ask", image, "what is it", "--model", tiny_oracle, "--json", "--top-k", 2).stdout)
    expected = pipeline("vqa", model=tiny_oracle, device="cpu")(str(image), "what is it", top_k=2)
    assert entry["question"] == "what is it"
    assert [each["answer"] for each in entry["answers"]] == [each["answer"] for each in expected]
    assert [each["score"] for each in entry["answers"]] == pytest.approx(
        [each["score"] for each in expected], abs=1e-4
    )
    config = butd_hf.ButdConfig(
        bottom_up_config={"selector": "given", "region_size": 8},
        top_down_config={"hidden_size": 32, "vocab_size": 60, "num_hidden_layers": 1},
    )
    butd_hf.ButdForQuestionAnswering(config).save_pretrained(tmp_path / "given")
    butd_hf.ButdProcessor(butd_hf.ButdImageProcessor(), tiny_tokenizer).save_pretrained(tmp_path / "given")
    assert "sees no images" in plain(call("ask", image, "what", "--model", tmp_path / "given", code=2).stderr)


@pytest.mark.parametrize("command", ["detect", "segment"])
def test_objects(call, images, tiny_detectors, command):
    model = tiny_detectors["segmentation" if command == "segment" else "detection"]
    options = ["--model", model, "--threshold", 0, "--top", 3, "--json"]
    (result,) = json.loads(call(command, images / "image_0.png", *options).stdout)
    assert (result["width"], result["height"]) == (96, 64) and 0 < len(result["objects"]) <= 3
    scores = [found["score"] for found in result["objects"]]
    assert scores == sorted(scores, reverse=True)
    for found in result["objects"]:
        assert found["label"] in ("square", "disc") and 0 <= found["box"][0] <= found["box"][2] <= 96
        assert ("mask" in found) == (command == "segment")
    nothing = call(command, images / "image_0.png", "--model", model, "--threshold", 1).stdout
    assert "no objects" in nothing


def test_regions_of_any_model(call, images, tiny_detectors, tiny_checkpoint):
    options = ["--json", "--top", 2, "--model"]
    (found,) = json.loads(call("regions", images / "image_0.png", *options, tiny_detectors["detection"]).stdout)
    (plain,) = json.loads(call("regions", images / "image_0.png", *options, tiny_checkpoint).stdout)
    first, second = found["regions"]
    assert (first["rank"], second["rank"]) == (1, 2) and first["saliency"] >= second["saliency"]
    assert first["label"] in ("square", "disc") and 0 <= first["attribute"] < 3
    assert set(plain["regions"][0]) == {"rank", "saliency", "box"}


def test_graphs(call, images, tiny_grapher):
    image, options = images / "image_0.png", ["--model", tiny_grapher, "--threshold", 0]
    dot = call("graph", images, *options, "--top", 3, "--dot").stdout
    assert dot.count("digraph") == 3 and dot.count("->") == 9
    assert "no relations" in call("graph", image, "--model", tiny_grapher, "--threshold", 1).stdout
    call("graph", image, "--json", "--dot", code=2)

    def relations(overlap):
        everything = ["--top", 1000, "--json", "--twin-overlap", overlap]
        (result,) = json.loads(call("graph", image, *options, *everything).stdout)
        labels = [each["label"] for each in result["objects"]]
        return {(each["subject"], each["object"]) for each in result["relations"]}, labels

    pairs, labels = relations(1)
    apart, _ = relations(0)  # any two objects of one label count as one, wherever they are
    assert apart == {pair for pair in pairs if labels[pair[0]] != labels[pair[1]]} < pairs


def test_version_and_help_without_installing_the_script(call):
    assert call("--version").stdout == f"butd_hf {version('butd_hf')}\n"
    done = subprocess.run([sys.executable, "-m", "butd_hf", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: butd-hf" in done.stdout and all(name in done.stdout for name in (*VERBS, "evaluate", "push"))
