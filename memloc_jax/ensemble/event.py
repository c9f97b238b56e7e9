"""What the engine says while it trains."""

import dataclasses


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
