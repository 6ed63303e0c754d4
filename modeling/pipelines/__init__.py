# SPDX-License-Identifier: Apache-2.0
"""Pipelines of the tasks that transformers has no pipeline for."""
