"""What XLA compiled while something ran, and how long it took."""

import contextlib
from collections.abc import Iterator

import jax

_EVENT = '/jax/core/compile/backend_compile_duration'


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
  """Yields a list that grows by the seconds of every compilation inside."""
  seconds = []

  def note(event: str, duration: float, **unused) -> None:
    if event == _EVENT:
      seconds.append(duration)

  jax.monitoring.register_event_duration_secs_listener(note)
  try:
    yield seconds
  finally:
    jax.monitoring.unregister_event_duration_listener(note)
