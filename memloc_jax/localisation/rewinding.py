"""Layer rewinding: blocks of an earlier epoch inside the final model.

Maini et al. (2023), "Can neural network memorization be localized?", section
4.2, for windows of layers: where the noisy model loses its noisy labels when a
window is set back to its state after some epoch, it learnt them there later.
"""

import dataclasses
import functools
from collections.abc import Callable

from memloc_jax.localisation import swapping, technique
from memloc_jax.models.interface import Tree


@technique.register_technique('rewinding', windowed=True)
def rewinding(
  source: technique.Source, config: None, report: technique.Report
) -> technique.Findings:
  """Error on noisy labels with windows set back.

  Variant 'epoch-0' sets back to the pretrained blocks; there is one more for
  every epoch after which all subjects have a snapshot.
  """
  epochs = set.intersection(*(set(s.snapshots) for s in source.subjects))
  others: dict[str, Callable[[technique.Subject], Tree]] = {
    'epoch-0': lambda subject: source.pretrained['blocks']
  }
  for epoch in sorted(epochs):
    others[f'epoch-{epoch}'] = functools.partial(_blocks_after, epoch)
  found = swapping.findings(source, others, report)
  lost = [str(epoch) for epoch in source.snapshots if epoch not in epochs]
  if not lost:
    return found
  note = (
    f'not to epochs {", ".join(lost)}, of which there are no weights, for not '
    'all models were trained here.'
  )
  return dataclasses.replace(found, notes=(note,))


def _blocks_after(epoch: int, subject: technique.Subject) -> Tree:
  return subject.snapshots[epoch].load()['blocks']
