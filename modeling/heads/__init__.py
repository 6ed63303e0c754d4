# SPDX-License-Identifier: Apache-2.0
"""Heads: what a task reads off the attended states."""
