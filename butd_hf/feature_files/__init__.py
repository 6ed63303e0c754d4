"""Feature files of other projects, and the region store: read, written and turned into one another."""
