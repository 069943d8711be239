"""A stand-in for the Immich server: its schema built from facts, its writes played from recordings."""
