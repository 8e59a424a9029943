"""The same encoding on a Ray cluster: actors with a model each make rows, this process writes them."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from audiovae.codec import load
from audiovae.encoding.inputs import Member, Recording
from audiovae.encoding.pipeline import encode_recordings
from audiovae.encoding.run import Encode
from audiovae.errors import InputError, in_one_line
from audiovae.interrupts import handlers_kept
from audiovae.latent_dataset.schema import DatasetSettings, Row, table, to_row

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_RECORDINGS, GPU_BATCH_RECORDINGS = 32, 1024
"""Recordings that an actor is given at once, and that are encoded again if it dies. A GPU does more in the same time,
and only for many are the seconds well spent in which decoding processes start."""
LOCAL = "local"
_MEMBER_COLUMNS = ("archive", "offset", "bytes", "mtime_ns")


@dataclass(frozen=True)
class Actors:
    """How a cluster's CPUs and GPUs are divided among actors."""

    most: int
    cpus: int
    """Of each, one of them for the model; the others decode for it."""
    batch: int
    """Recordings at once."""

    @classmethod
    def for_nodes(cls, nodes: Sequence[Mapping[str, float]], gpus: float) -> "Actors":
        """From the nodes' resources: an actor per CPU; or one per share of a GPU, with as many CPUs as every node has.

        A GPU would have to wait for a single process that decodes. One CPU of each node is left to Ray itself.
        """
        if not gpus:
            return cls(max(1, int(sum(node.get("CPU", 0) for node in nodes))), 1, BATCH_RECORDINGS)
        shares = [(int(node.get("GPU", 0) / gpus), node.get("CPU", 1)) for node in nodes]
        cpus = [int((cpus - 1) / actors) for actors, cpus in shares if actors]
        return cls(max(1, sum(actors for actors, _ in shares)), max(1, min(cpus, default=1)), GPU_BATCH_RECORDINGS)

    @property
    def workers(self) -> int:
        """Processes that decode for an actor; 0: it does so itself."""
        return self.cpus - 1


class ClusterEncoder:
    """What an actor does: a table of recordings in, a table of rows out."""

    def __init__(self, checkpoint: str | None, device: str, settings: DatasetSettings, workers: int = 0) -> None:
        self.codec, self.settings, self.workers = load(checkpoint, device=device), settings, workers
        if self.codec.fingerprint != settings.checkpoint:
            raise InputError(f"{checkpoint}: is another model on this node")

    def __call__(self, batch: "pa.Table") -> "pa.Table":
        recordings = [_recording(**entry) for entry in batch.to_pylist()]
        rows = encode_recordings(self.codec, recordings, self.settings, workers=self.workers)
        return table(list(rows), self.settings)


def ray_encoder(
    address: str, checkpoint: str | None, settings: DatasetSettings, *, device: str = "auto", gpus: float = 0.0
) -> Encode:
    """Encodes on the Ray cluster at an address, or on one of this machine's own with ``local``.

    Every node needs this package, and the recordings (and the checkpoint, if it isn't the bundled one) under the same
    paths. There are as many actors as the cluster has room for (``Actors``): a CPU each, or ``gpus`` of one and CPUs
    that decode for it. An actor that dies is replaced and its batch is encoded again. Raises InputError if Ray is not
    installed, can't be reached, or gives up.
    """

    def encode(recordings: Sequence[Recording]) -> Iterator[Row]:
        try:
            import ray
        except ImportError as error:
            raise InputError('encoding on Ray needs more packages: pip install "audiovae[ray]"') from error
        ours = not ray.is_initialized()
        if ours:
            _connect(address)
        try:
            yield from _encode_on_ray(recordings, (checkpoint, device, settings), gpus)
        except ray.exceptions.RayError as error:  # of a node that lacks the checkpoint, say; its last line says so
            raise InputError(f"Ray at {address}: {str(error).strip().splitlines()[-1].strip()[:200]}") from error
        finally:
            if ours:
                ray.shutdown()

    return encode


def _connect(address: str) -> None:
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    options |= {"include_dashboard": False} if address == LOCAL else {}
    try:
        with handlers_kept():  # Ray would answer a signal to end by itself, and nothing would be written
            ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"Ray at {address}: {in_one_line(error)}") from error


def _encode_on_ray(
    recordings: Sequence[Recording], arguments: tuple[str | None, str, DatasetSettings], gpus: float
) -> Iterator[Row]:
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    entries = [_entry(recording) for recording in recordings]
    actors = Actors.for_nodes([node["Resources"] for node in ray.nodes() if node["Alive"]], gpus)
    blocks = max(1, -(-len(entries) // actors.batch))
    rows = ray.data.from_items(entries, override_num_blocks=blocks).map_batches(
        ClusterEncoder,
        fn_constructor_args=(*arguments, actors.workers),
        batch_size=actors.batch,
        batch_format="pyarrow",
        num_gpus=gpus or None,
        num_cpus=actors.cpus,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(actors.most, blocks)),
    )
    batches: Iterable[Any] = rows.iter_batches(batch_size=None, batch_format="pyarrow")  # of Arrow tables
    for batch in batches:
        for index in range(batch.num_rows):
            yield to_row({name: batch[name][index] for name in batch.column_names})


def _entry(recording: Recording) -> dict[str, Any]:
    member: list[Any] = [None] * 4 if recording.member is None else [*asdict(recording.member).values()]
    return {"source": recording.source, "root": recording.root} | dict(zip(_MEMBER_COLUMNS, member, strict=True))


def _recording(
    source: str, root: str, archive: str | None, offset: int | None, bytes: int | None, mtime_ns: int | None
) -> Recording:
    if archive is None or offset is None or bytes is None or mtime_ns is None:
        return Recording(source, root)
    return Recording(source, root, Member(archive, offset, bytes, mtime_ns))
