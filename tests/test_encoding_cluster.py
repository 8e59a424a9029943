"""Encoding on a Ray cluster gives the dataset that encoding here gives. Ray is an extra that tests do without."""

from pathlib import Path

import pyarrow as pa
import pytest
from conftest import noise, stereo
from tiny_codec import save_tiny

from audiovae.audio import Audio
from audiovae.codec import load
from audiovae.encoding import cluster
from audiovae.encoding.inputs import find_recordings
from audiovae.encoding.pipeline import settings_of
from audiovae.encoding.run import encode_dataset, local_encoder
from audiovae.latent_dataset.shards import find_shards, open_shard


def content(dataset: Path) -> list[dict[str, object]]:
    return pa.concat_tables([open_shard(shard).read() for shard in find_shards(dataset)]).to_pylist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_makes_the_same_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one, on this machine, with two actors."""
    ray = pytest.importorskip("ray")
    (tmp_path / "music").mkdir()
    for index in range(7):
        Audio(noise(samples=20_000 + 9000 * index, seed=index), 44_100).save(tmp_path / "music" / f"{index}.wav")
    Audio(stereo(samples=30_000), 44_100).save(tmp_path / "music" / "stereo.wav")
    (tmp_path / "music" / "bad.wav").write_text("no audio")
    checkpoint = save_tiny(tmp_path / "tiny.safetensors")
    codec = load(checkpoint, device="cpu")
    settings, recordings = settings_of(codec, logvar=True), find_recordings([tmp_path / "music"])
    encode_dataset(recordings, tmp_path / "here", settings, local_encoder(codec, settings))
    monkeypatch.setattr(cluster, "BATCH_RECORDINGS", 3)
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        encoder = cluster.ray_encoder("local", str(checkpoint), settings, device="cpu")
        outcome = encode_dataset(recordings, tmp_path / "there", settings, encoder)
    finally:
        ray.shutdown()
    assert (outcome.encoded, len(outcome.failures)) == (8, 1)
    assert content(tmp_path / "there") == content(tmp_path / "here")
