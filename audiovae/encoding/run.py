"""A whole run of batch encoding: what is missing in the dataset is made, and told of while it is."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from audiovae.codec import Codec
from audiovae.encoding.inputs import Recording
from audiovae.encoding.pipeline import encode_recordings
from audiovae.encoding.resume import Redo, make_plan
from audiovae.encoding.writer import SHARD_BYTES, SHARD_SECONDS, ShardWriter
from audiovae.folder_lock import locked
from audiovae.latent_dataset.schema import DatasetSettings, Row

Encode = Callable[[Sequence[Recording]], Iterable[Row]]
"""Makes rows, in the order of the recordings."""


@dataclass(frozen=True)
class Failure:
    """A recording without latents, and why."""

    source: str
    reason: str


@dataclass
class Outcome:
    """What a run has done so far."""

    total: int
    """Recordings that were given."""
    done_before: int = 0
    changed: int = 0
    """Of those done before: files that were changed since, and left as they are."""
    encoded: int = 0
    audio_seconds: float = 0.0
    """Length of what was encoded."""
    elapsed_seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)
    """Shards that made no sense, under the hidden names by which they were set aside."""
    shards: list[Path] = field(default_factory=list)
    """Written by this run."""
    stopped: bool = False
    """Whether a failure ended the run (``fail_fast``)."""

    def count(self, row: Row) -> None:
        """One more row."""
        if row.error is None:
            self.encoded += 1
            self.audio_seconds += row.seconds
        else:
            self.failures.append(Failure(row.source, row.error))

    @property
    def done(self) -> int:
        """Recordings that have a row."""
        return self.done_before + self.encoded + len(self.failures)

    @property
    def times_real_time(self) -> float:
        """Seconds of audio encoded in a second."""
        return self.audio_seconds / self.elapsed_seconds if self.elapsed_seconds else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """How long the rest will take at the same rate of files; None before the first."""
        made = self.encoded + len(self.failures)
        return self.elapsed_seconds / made * (self.total - self.done) if made else None


def encode_dataset(
    recordings: Sequence[Recording],
    dataset: Path,
    settings: DatasetSettings,
    encode: Encode,
    *,
    redo: Redo = "missing",
    fail_fast: bool = False,
    shard_bytes: int = SHARD_BYTES,
    shard_seconds: float = SHARD_SECONDS,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Adds to a dataset the rows that it lacks. Killed at any moment, it is just run again.

    Rows that failed before are tried again; ``redo`` says what else. With ``fail_fast`` the first failure is the last
    row. On an interrupt, what is encoded is written first. Raises InputError if another process writes to the dataset,
    if it was made by another model or with other settings, or if the disk refuses.
    """
    with locked(dataset):
        plan = make_plan(recordings, dataset, settings, redo=redo)
        outcome = Outcome(len(recordings), plan.done, plan.changed, damaged=plan.damaged)
        progress(outcome)
        start = time.monotonic()
        with _writer(dataset, settings, shard_bytes, shard_seconds) as writer, _rows(encode, plan.todo) as rows:
            outcome.shards = writer.shards
            for row in rows:
                writer.add(row)
                outcome.count(row)
                outcome.elapsed_seconds = time.monotonic() - start
                progress(outcome)
                if fail_fast and outcome.failures:
                    outcome.stopped = True
                    break
    return outcome


def local_encoder(codec: Codec, settings: DatasetSettings, *, workers: int = 0) -> Encode:
    """Encodes on this machine; see ``encode_recordings``."""
    return lambda recordings: encode_recordings(codec, recordings, settings, workers=workers)


@contextmanager
def _writer(dataset: Path, settings: DatasetSettings, shard_bytes: int, shard_seconds: float) -> Iterator[ShardWriter]:
    with closing(ShardWriter(dataset, settings, shard_bytes=shard_bytes, shard_seconds=shard_seconds)) as writer:
        yield writer


@contextmanager
def _rows(encode: Encode, recordings: Sequence[Recording]) -> Iterator[Iterator[Row]]:
    """Yields an iterator of rows, closed at the end: one that is just dropped would go on for a while."""
    rows = iter(encode(recordings) if recordings else ())
    try:
        yield rows
    finally:
        if hasattr(rows, "close"):
            rows.close()  # pyright: ignore[reportAttributeAccessIssue]
