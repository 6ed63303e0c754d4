# SPDX-License-Identifier: Apache-2.0
"""Make a trained checkpoint the package's embedded default of a task, with its weights in float16:

    python examples/benchmarks/embed_checkpoint.py RUN image-to-text

Its config asks for float32, in which CPUs compute. The code isn't copied: the package has it. Write the card in
`hub_cards/` by hand, from what `butd-hf evaluate` printed.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from butd_hf.checkpoints import checkpoint_folder


CODE_FIELDS = ("auto_map", "custom_pipelines")


def embed(source: Path, target: Path) -> None:
    """Copies config, weights and tokenizer of a saved checkpoint, without its code, and its weights as float16.

    Raises:
        FileNotFoundError: There are no weights.
        ValueError: The config's dtype isn't float32, or a weight is beyond float16's range.
    """
    if not (source / "model.safetensors").is_file():
        raise FileNotFoundError(f"no model.safetensors in {source}, expected a folder saved by save_pretrained.")
    dtype = json.loads((source / "config.json").read_text(encoding="utf-8")).get("dtype")
    if dtype != "float32":
        raise ValueError(f"{source / 'config.json'} says dtype={dtype!r}, expected 'float32'.")
    unfinished = target.with_name(f".{target.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for file in source.glob("*.json"):
        if file.name not in ("eval_results.json", "trainer_state.json", "all_results.json"):
            fields = json.loads(file.read_text(encoding="utf-8"))
            for name in CODE_FIELDS:
                fields.pop(name, None)
                fields.get("image_processor", {}).pop(name, None)
            (unfinished / file.name).write_text(
                json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
    weights = load_file(source / "model.safetensors")
    halved = {name: value.half() if value.dtype == torch.float32 else value for name, value in weights.items()}
    for name, value in halved.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name} has values beyond the range of float16.")
    save_file(halved, unfinished / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(target, ignore_errors=True)
    os.replace(unfinished, target)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="Folder of the trained checkpoint.")
    parser.add_argument("task", help="Task of the pipeline that it becomes the default of.")
    options = parser.parse_args(arguments)
    target = checkpoint_folder(options.task)
    embed(options.run, target)
    print(f"{options.task} is now {options.run}, {sum(f.stat().st_size for f in target.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
