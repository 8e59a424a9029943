"""Floor 6: a folder of audio to a checkpoint. Read in this order: run, data, losses, schedule, loop."""
