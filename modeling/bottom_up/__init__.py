# SPDX-License-Identifier: Apache-2.0
"""Bottom-up: from an image to ranked regions."""
