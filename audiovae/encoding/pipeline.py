"""Recordings to rows: decoded in processes, encoded in batches, in the order in which they were given."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from audiovae.codec import Codec
from audiovae.encoding.batches import BatchEncoder, Encoded
from audiovae.encoding.inputs import Recording
from audiovae.encoding.preparation import Analysis, Piece, RecordingFacts
from audiovae.encoding.workers import prepared
from audiovae.errors import InputError
from audiovae.latent_dataset.schema import DatasetSettings, Precision, Row

PIECE_LATENT_FRAMES = 512
"""Latent frames (24 s) that a piece brings, besides its context."""


def settings_of(
    codec: Codec, *, precision: Precision = "float16", logvar: bool = False, latent_channels: int | None = None
) -> DatasetSettings:
    """The settings of a dataset that this model makes. Raises InputError if it hasn't so many latent channels."""
    config = codec.config
    if latent_channels is not None and not 1 <= latent_channels <= config.model.latent_channels:
        raise InputError(f"latent channels {latent_channels}: the model has {config.model.latent_channels}")
    return DatasetSettings(
        checkpoint=codec.fingerprint,
        sample_rate=config.spectrogram.sample_rate,
        latent_hop_length=config.latent_hop_length,
        precision=precision,
        logvar=logvar,
        latent_channels=None if latent_channels == config.model.latent_channels else latent_channels,
    )


def encode_recordings(
    codec: Codec, recordings: Sequence[Recording], settings: DatasetSettings, *, workers: int = 0
) -> Iterator[Row]:
    """A row for each recording, in order; one that can't be used has a row that says why.

    The latents are those of ``Codec.encode`` to within rounding. They are the same bytes for any number of workers
    and whatever other recordings there are.
    """
    analysis = Analysis(codec.config, codec.checkpoint.model.context_latent_frames, PIECE_LATENT_FRAMES)
    assembly = _Assembly(recordings, settings)
    with (
        BatchEncoder(codec, analysis) as encoder,
        closing(prepared(recordings, analysis, workers=workers)) as messages,
    ):
        for index, message in messages:
            if isinstance(message, Piece):
                for encoded in _encode(encoder, message, assembly.expect(index, message)):
                    assembly.put(encoded)
            elif isinstance(message, RecordingFacts):
                assembly.close(index, message)
            else:
                assembly.restart(index)
            yield from assembly.rows()
        for encoded in encoder.finish():
            assembly.put(encoded)
    yield from assembly.rows()


def _encode(encoder: BatchEncoder, piece: Piece, name: tuple[int, ...]) -> Iterator[Encoded]:
    for channel, waveform in enumerate(piece.waveform):
        yield from encoder.add(waveform, slice(piece.first, piece.last), (*name, channel))


@dataclass(eq=False)
class _Partial:
    """A recording of which not all is there."""

    attempt: int = 0
    pieces: int = 0
    missing: int = 0
    parts: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    facts: RecordingFacts | None = None


class _Assembly:
    """Puts rows together from what comes back in any order."""

    def __init__(self, recordings: Sequence[Recording], settings: DatasetSettings) -> None:
        self.recordings, self.settings = recordings, settings
        self.dtype = getattr(torch, settings.precision)
        self.partial: dict[int, _Partial] = {}
        self.next = 0

    def expect(self, index: int, piece: Piece) -> tuple[int, ...]:
        """The name under which a piece's latents will come back."""
        one = self.partial.setdefault(index, _Partial())
        one.pieces += 1
        one.missing += piece.waveform.shape[0]
        return index, one.attempt, one.pieces - 1

    def put(self, encoded: Encoded) -> None:
        """Latents of one channel of a piece."""
        index, attempt, piece, channel = encoded.name  # pyright: ignore[reportGeneralTypeIssues]
        one = self.partial.get(index)
        if one is None or one.attempt != attempt or (one.facts is not None and one.facts.error is not None):
            return  # its recording has failed, or began again, meanwhile
        kept = slice(self.settings.latent_channels)
        # Copies, so that the rest of the batch is let go.
        logvar = encoded.logvar[kept].to(self.dtype, copy=True) if self.settings.logvar else None
        one.parts[piece, channel] = encoded.mean[kept].to(self.dtype, copy=True), logvar
        one.missing -= 1

    def restart(self, index: int) -> None:
        """Forgets what came of a recording so far."""
        self.partial[index] = _Partial(attempt=self.partial.get(index, _Partial()).attempt + 1)

    def close(self, index: int, facts: RecordingFacts) -> None:
        """There will be no more pieces."""
        one = self.partial.setdefault(index, _Partial())
        one.facts = facts
        if facts.error is not None:
            one.parts.clear()
            one.missing = 0

    def rows(self) -> Iterator[Row]:
        """The rows whose turn it is."""
        while (one := self.partial.get(self.next)) is not None and one.facts is not None and not one.missing:
            del self.partial[self.next]
            yield self._row(self.recordings[self.next], one, one.facts)
            self.next += 1

    def _row(self, recording: Recording, one: _Partial, facts: RecordingFacts) -> Row:
        row = Row(recording.source, recording.root, facts.size, facts.mtime_ns, facts.sha256, facts.error)
        if facts.error is not None:
            return row
        channels = 1 + max(channel for _, channel in one.parts)
        parts = [[one.parts[piece, channel] for piece in range(one.pieces)] for channel in range(channels)]
        mean = torch.stack([torch.cat([mean for mean, _ in pieces], dim=-1) for pieces in parts])
        if not mean.isfinite().all():
            return replace(row, error=f"its latents are beyond the range of {self.settings.precision}")
        logvar = None
        if self.settings.logvar:
            logvars = [[logvar for _, logvar in pieces if logvar is not None] for pieces in parts]
            logvar = torch.stack([torch.cat(pieces, dim=-1) for pieces in logvars])
        measured = {"sample_rate": facts.sample_rate, "samples": facts.samples, "level_db": facts.level_db}
        return replace(row, **measured, mean=mean, logvar=logvar)
