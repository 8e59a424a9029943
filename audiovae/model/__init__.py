"""Spectrogram to latents and back."""
