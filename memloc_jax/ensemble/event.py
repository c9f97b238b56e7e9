"""What the engine says while it trains."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Start:
  """How a table is about to be trained, for whoever watches.

  Attributes:
    table: its name.
    pending: runs to train.
    lanes: runs at once on each device.
    devices: of this process.
    chunks: of runs that train one after the other.
    needed: bytes that the compiled program uses on each device.
  """

  table: str
  pending: int
  lanes: int
  devices: int
  chunks: int
  needed: int


@dataclasses.dataclass(frozen=True)
class Event:
  """Progress of a table, for whoever watches."""

  table: str
  chunk: int
  num_chunks: int
  epoch: int
  num_epochs: int
  running: int
  loss: float
  examples: int
