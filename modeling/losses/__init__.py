# SPDX-License-Identifier: Apache-2.0
"""Losses and the targets that they compare predictions with."""
