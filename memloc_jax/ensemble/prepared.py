"""A table on its devices: schedule, arrays and compiled programs."""

from typing import TYPE_CHECKING

import jax
import numpy as np

from memloc_jax.ensemble import evaluation, lanes, memory, vectorise
from memloc_jax.ensemble.layout import Layout
from memloc_jax.ensemble.program import RANDOM
from memloc_jax.ensemble.table import Table
from memloc_jax.models import interface
from memloc_jax.models.interface import Tree

if TYPE_CHECKING:
  from memloc_jax.ensemble.train import Engine


def _slice(params: Tree, at: slice | tuple[slice, ...]) -> Tree:
  """The same parameters with fewer layers."""
  return params | {'blocks': jax.tree.map(lambda x: x[at], params['blocks'])}


def _common_blocks(pretrained: Tree, table: Table, layers: slice) -> Tree:
  """The blocks of layers that all runs hold in common, on the host."""
  sources = table.runs.start[0, layers]
  result = jax.tree.map(lambda x: x[layers].copy(), pretrained['blocks'])
  for at in np.flatnonzero(sources > RANDOM):
    done = jax.tree.map(
      lambda x, s=sources[at] - 2: x[s, layers], table.finished[1]['blocks']
    )
    for leaf, other in zip(jax.tree.leaves(result), jax.tree.leaves(done)):
      leaf[at] = other[at]
  return result


class Prepared:
  """What the chunks of one table have in common.

  Attributes:
    schedule: which examples a step sees.
    segment: steps of one call of the compiled program.
    vectorised: the compiled side.
    shared: what all runs hold in common, on the devices.
    corpora: one an objective, on the devices.
    evaluation: predicts and scores.
  """

  def __init__(self, engine: 'Engine', table: Table):
    """Places what all chunks of the table share."""
    self._engine, self._table = engine, table
    self._layout = layout = Layout(engine, table)
    self.schedule, self.segment = layout.schedule, layout.segment
    self.vectorised = layout.vectorised
    place, own = self.vectorised.place, layout.own
    lengths = np.asarray(layout.corpora[0].length)
    self.corpora = place(layout.corpora, run_axis=None)
    self.shared = {}
    if not table.program.train_embeddings:
      embeddings = engine.pretrained['embeddings']
      self.shared['embeddings'] = place(embeddings, run_axis=None)
    if table.program.layers is not None:
      for name, layers in (
        ('below', slice(0, own.start)),
        ('above', slice(own.stop, None)),
      ):
        blocks = _common_blocks(engine.pretrained, table, layers)
        if self.vectorised.unroll:
          blocks = interface.unstack(blocks)
        self.shared[name] = place(blocks, run_axis=None)
    recorded = np.ones(len(lengths), bool)
    if table.predict is not None:
      recorded[: len(table.predict)] = table.predict
    self.evaluation = evaluation.Evaluation(
      vectorised=self.vectorised,
      shared=self.shared,
      corpus=self.corpora[0],
      lengths=lengths,
      runs=table.runs,
      labels=np.asarray(table.examples[0].labels),
      recorded=recorded,
    )

  def arguments(self, rows: np.ndarray):
    """The table's rows, int [width], as `Vectorised.init` takes them.

    What they start from is put on the devices anew each time: kept there, it
    would be one more run's weights while the others train.
    """
    runs, place, own = self._table.runs, self.vectorised.place, self._layout.own
    run = place(vectorise.device_runs(runs, rows, own))
    start = place((runs.start[rows, own], runs.head_start[rows]))
    finished = None
    if self._table.finished is not None:
      finished = self._table.finished[1]
      if 'blocks' in finished:
        finished = _slice(finished, (slice(None), own))
    pretrained = _slice(self._engine.pretrained, own)
    if 'embeddings' in self.shared:  # They are there already.
      pretrained['embeddings'] = self.shared['embeddings']
    return run, (*start, *place((pretrained, finished), run_axis=None))

  def abstract_arguments(self, width: int) -> tuple[Tree, ...]:
    """Shapes of what `Vectorised.segment` takes for a chunk so wide."""
    return self._layout.arguments(width)

  def choose(self, requested: int) -> tuple[int, lanes.Sized]:
    """Runs per device, and their training segment; see `Layout.choose`."""
    limit = lanes.memory_limit(
      list(self.vectorised.placement.mesh.devices.flat),
      placed=memory.on_device((self.shared, self.corpora)),
    )
    return self._layout.choose(requested, limit)
