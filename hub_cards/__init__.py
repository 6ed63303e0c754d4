# SPDX-License-Identifier: Apache-2.0
"""Templates of model cards, and the filled cards of the embedded checkpoints."""
