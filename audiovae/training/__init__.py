"""A folder of audio to a checkpoint. Read run, data, segments, loop, losses; then prior, flow for ``train-prior``."""
