# SPDX-License-Identifier: Apache-2.0
"""Top-down: decoders that attend to regions, given what the task knows so far."""
