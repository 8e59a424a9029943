"""Encoding on a Ray cluster gives the dataset that encoding here gives. Ray is an extra that tests do without."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pytest
from conftest import noise, stereo
from doomed_encoder import DOOMED_NODE, SIGN, DoomedEncoder
from tiny_codec import save_tiny

from audiovae.audio import Audio
from audiovae.codec import load
from audiovae.encoding import cluster
from audiovae.encoding.inputs import Recording, find_recordings
from audiovae.encoding.pipeline import settings_of
from audiovae.encoding.run import encode_dataset, local_encoder
from audiovae.latent_dataset.schema import DatasetSettings
from audiovae.latent_dataset.shards import find_shards, open_shard

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def content(dataset: Path) -> list[dict[str, object]]:
    return pa.concat_tables([open_shard(shard).read() for shard in find_shards(dataset)]).to_pylist()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny.safetensors")


@pytest.fixture
def settings(checkpoint: Path) -> DatasetSettings:
    return settings_of(load(checkpoint, device="cpu"), logvar=True)


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """Twenty-five in batches of two; one is bad."""
    monkeypatch.setattr(cluster, "BATCH_RECORDINGS", 2)
    (tmp_path / "music").mkdir()
    for index in range(23):
        Audio(noise(samples=20_000 + 3000 * index, seed=index), 44_100).save(tmp_path / "music" / f"{index:02}.wav")
    Audio(stereo(samples=30_000), 44_100).save(tmp_path / "music" / "stereo.wav")
    (tmp_path / "music" / "bad.wav").write_text("no audio")
    return find_recordings([tmp_path / "music"])


@pytest.fixture
def expected(
    checkpoint: Path, settings: DatasetSettings, recordings: list[Recording], tmp_path: Path
) -> list[dict[str, object]]:
    encoder = local_encoder(load(checkpoint, device="cpu"), settings)
    encode_dataset(recordings, tmp_path / "here", settings, encoder)
    return content(tmp_path / "here")


@pytest.fixture
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    yield ray
    ray.shutdown()


@pytest.mark.parametrize(
    "actors", [cluster.Actors(2, 1, 2), cluster.Actors(1, 3, 16)], ids=["a CPU each", "with CPUs that decode for it"]
)
def test_a_cluster_makes_the_same_dataset(
    actors: cluster.Actors,
    ray: Any,
    checkpoint: Path,
    settings: DatasetSettings,
    recordings: list[Recording],
    expected: list[dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real one, on this machine; what it makes is read by Ray too."""
    monkeypatch.setattr(cluster.Actors, "for_nodes", lambda *_: actors)
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    encoder = cluster.ray_encoder("local", str(checkpoint), settings, device="cpu")
    outcome = encode_dataset(recordings, tmp_path / "there", settings, encoder)
    assert (outcome.encoded, len(outcome.failures)) == (24, 1)
    assert content(tmp_path / "there") == expected
    rows = ray.data.read_parquet(str(tmp_path / "there")).take_all()
    assert {row["source"]: list(row["mean"]) for row in rows if row["status"] == "ok"} == {
        row["source"]: row["mean"] for row in expected if row["status"] == "ok"
    }


def test_a_signal_to_end_is_answered_as_ever(checkpoint: Path, tmp_path: Path) -> None:
    """Ray has an answer of its own to it, after which nothing would be said or written."""
    pytest.importorskip("ray")
    (tmp_path / "music").mkdir()
    Audio(noise(samples=4_000_000), 44_100).save(tmp_path / "music" / "a.wav")
    for index in range(400):
        (tmp_path / "music" / f"{index}.wav").symlink_to(tmp_path / "music" / "a.wav")
    words = ("encode", tmp_path / "music", "--out", tmp_path / "latents", "--checkpoint", checkpoint)
    command = [sys.executable, "-m", "audiovae", *map(str, words), "--device", "cpu", "--ray", "local", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["encoded"]:
                break
        process.terminate()
        told, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.endswith("audiovae: interrupted\n")
    assert json.loads(told.splitlines()[-1])["event"] == "interrupted"
    assert content(tmp_path / "latents")


def test_a_node_that_dies_costs_no_row(
    ray: Any,
    checkpoint: Path,
    settings: DatasetSettings,
    recordings: list[Recording],
    expected: list[dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two nodes of a CPU each; one is killed with rows in its memory and others in work."""
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(cluster, "ClusterEncoder", DoomedEncoder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    sign, over = tmp_path / "sign", Event()
    signs = {SIGN: str(sign)}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "env_vars": signs})
    doomed = nodes.add_node(num_cpus=1, env_vars=signs | {DOOMED_NODE: "1"})

    def kill() -> None:
        while not over.wait(0.1):
            if sign.exists():
                nodes.remove_node(doomed, allow_graceful=False)
                return

    try:
        ray.init(address=nodes.address, log_to_driver=False)
        encoder = cluster.ray_encoder(nodes.address, str(checkpoint), settings, device="cpu")
        with ThreadPoolExecutor(1) as other:
            other.submit(kill)
            try:
                outcome = encode_dataset(recordings, tmp_path / "there", settings, encoder)
            finally:
                over.set()
        assert len([node for node in ray.nodes() if node["Alive"]]) == 1
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert (outcome.encoded, len(outcome.failures)) == (24, 1)
    assert content(tmp_path / "there") == expected
