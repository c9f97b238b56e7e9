"""Twin runs: in which layers, words and units each example is memorised."""
