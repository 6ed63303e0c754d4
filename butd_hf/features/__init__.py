# SPDX-License-Identifier: Apache-2.0
"""Feature files of other projects, and the region store: read, written and turned into one another."""
