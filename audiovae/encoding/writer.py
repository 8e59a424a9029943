"""Rows into shards, in the background: while one shard is written, the next one fills."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from audiovae.interrupts import interrupts_held
from audiovae.latent_dataset.schema import DatasetSettings, Row
from audiovae.latent_dataset.shards import ENCODED, FAILURES, next_shard, row_bytes, write_shard

SHARD_BYTES = 256 << 20
"""What a shard has at most, unless a single row has more: about 3 hours of mono."""
SHARD_SECONDS = 120.0
"""A shard is written with the first row that comes so long after the last shard: a power cut costs no more than
that, or than the one recording that took longer."""


class ShardWriter:
    """Collects rows in memory and writes them in their order, failures into shards of their own.

    A shard that is done survives everything. Raises InputError, at the latest when it is closed,
    if the disk refuses.
    """

    def __init__(
        self,
        dataset: Path,
        settings: DatasetSettings,
        *,
        shard_bytes: int = SHARD_BYTES,
        shard_seconds: float = SHARD_SECONDS,
    ) -> None:
        self.dataset, self.settings = dataset, settings
        self.shard_bytes, self.shard_seconds = shard_bytes, shard_seconds
        self.background = ThreadPoolExecutor(1, thread_name_prefix="audiovae-writing")
        self.writing: Future[None] | None = None
        self.refused = False
        self.shards: list[Path] = []
        """Those that are done."""
        self._start()

    def add(self, row: Row) -> None:
        """Takes a row; waits for the disk if it is more than a shard behind."""
        self.rows.append(row)
        self.bytes += row_bytes(row)
        if self.bytes >= self.shard_bytes or time.monotonic() - self.since > self.shard_seconds:
            self._hand_over()

    def close(self) -> None:
        """Writes the rest and waits until all is on disk; after a failure, nothing: rows keep their order."""
        try:
            if not self.refused:
                self._hand_over()
                self._wait()
        finally:
            self.background.shutdown()

    def _start(self) -> None:
        self.rows: list[Row] = []
        self.bytes, self.since = 0, time.monotonic()

    def _hand_over(self) -> None:
        self._wait()
        if self.rows:
            with interrupts_held():
                self.writing = self.background.submit(self._write, self.rows)
                self._start()

    def _wait(self) -> None:
        """An interrupt while it waits is no refusal: what is written is waited for again, when this is closed."""
        if self.writing is None:
            return
        try:
            self.writing.result()
        except Exception:
            self.refused = True
            raise
        self.writing = None

    def _write(self, rows: list[Row]) -> None:
        for kind, some in (
            (ENCODED, [row for row in rows if row.error is None]),
            (FAILURES, [row for row in rows if row.error is not None]),
        ):
            if some:
                shard = next_shard(self.dataset, kind)
                write_shard(shard, some, self.settings)
                self.shards.append(shard)
