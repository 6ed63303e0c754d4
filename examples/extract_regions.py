# SPDX-License-Identifier: Apache-2.0
"""Extract the regions of many images, in several processes:

    accelerate launch --cpu --num_processes 8 examples/extract_regions.py photos/ --out STORE --model FOLDER

with the options of `butd-hf extract`, which is the same in one process. A killed extraction goes on when it is started
again, with as many processes as you like. Then read the store, or turn it into the feature files of other projects:

    store = butd_hf.data.RegionStore.open("STORE")
    store["photo.jpg"].features  # (num_regions, region_size)

    butd-hf features STORE --to features.tsv
"""

import typer

from butd_hf.cli.extract import extract


if __name__ == "__main__":
    typer.run(extract)
