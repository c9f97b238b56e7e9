"""SIGTERM, as batch systems send before they take a machine away."""

import signal


class Termination:
  """Remembers that the process was asked to stop.

  The study asks at places where it can save. A second signal ends the
  process at once, as does SIGKILL: what is on disk is then still whole.
  """

  def __init__(self):
    self._asked = False

  def listen(self) -> None:
    """Takes over the signal, in the main thread, for work that can save."""
    signal.signal(signal.SIGTERM, self._handle)

  def asked(self) -> bool:
    """Whether it was."""
    return self._asked

  def _handle(self, number, frame) -> None:
    del frame
    self._asked = True
    signal.signal(number, signal.SIG_DFL)
