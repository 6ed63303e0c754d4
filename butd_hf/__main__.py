# SPDX-License-Identifier: Apache-2.0
"""`python -m butd_hf` is `butd-hf`."""

from .cli import main


main()
