"""Floor 6: a folder of audio to a checkpoint. Read in this order: data, losses, schedule, loop."""
