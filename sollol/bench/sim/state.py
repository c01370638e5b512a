"""What a simulated node knows and what it has seen; shared by its routes."""

import asyncio
import time
from itertools import count

from sollol.bench.sim.config import SimConfig
from sollol.bench.sim.engine import Engine
from sollol.bench.sim.fast import FastLane
from sollol.bench.sim.faults import FaultBox
from sollol.bench.sim.models import ModelStore
from sollol.bench.sim.recorder import Recorder
from sollol.bench.sim.work import WorkCache


class NodeState:
    """Everything the routes of a node work on; made inside the running loop."""

    def __init__(self, config: SimConfig) -> None:
        self.config = config
        self.models = ModelStore(config)
        self.engine = Engine(config)
        self.faults = FaultBox()
        self.recorder = Recorder(config.keep_requests)
        self.blobs: set[str] = set()
        """Digests of uploaded blobs, as ``sha256:<hex>``."""
        self.gguf_blobs: set[str] = set()
        """Those of them that begin as a GGUF file does."""
        self.blob_bytes_received = 0
        self.works = WorkCache()
        self.fast_lane = FastLane(self.engine, self.models, self.faults, self.recorder)
        self.completion_ids = count()
        self.loop = asyncio.get_running_loop()
        self.epoch_ns = time.time_ns() - int(self.loop.time() * 1e9)
        """The wall clock at the loop's time 0."""
