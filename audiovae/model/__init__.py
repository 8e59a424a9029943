"""Floor 2: spectrogram to latents and back."""
