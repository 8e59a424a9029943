"""What runs on the nodes of a cluster of which one is to die; in a file of its own, so that they can import it."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from audiovae.encoding.cluster import ClusterEncoder

if TYPE_CHECKING:
    import pyarrow as pa

DOOMED_NODE, SIGN = "AUDIOVAE_TEST_DOOMED_NODE", "AUDIOVAE_TEST_SIGN"
"""Environment of the node that is to die, and for the path of the file that it makes when it may."""


class DoomedEncoder(ClusterEncoder):
    """On the node that is to die, it makes one batch and has a second in hand for ever; elsewhere it waits for that."""

    batches = 0

    def __call__(self, batch: "pa.Table") -> "pa.Table":
        """Encodes, or waits for the end."""
        self.batches += 1
        sign = Path(os.environ[SIGN])
        if os.environ.get(DOOMED_NODE) and self.batches > 1:
            sign.touch()
            time.sleep(3600)
        while not os.environ.get(DOOMED_NODE) and not sign.exists():
            time.sleep(0.1)
        return super().__call__(batch)
