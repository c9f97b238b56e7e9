"""Gradient accounting: noisy against clean gradients while a model trains.

Maini et al. (2023), section 4.1: per layer and epoch, the norm of the mean
loss gradient over noisy and over clean examples, and the cosine between them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memloc_jax.localisation import gradients, technique


@jax.jit
def _compare(noisy, clean):
  """Squared norms of both and their inner product per layer, [3, L]."""
  pairs = list(zip(jax.tree.leaves(noisy), jax.tree.leaves(clean)))
  inner = lambda x, y: jnp.sum((x * y).reshape(len(x), -1), axis=1)
  return jnp.stack(
    [
      sum(inner(x, x) for x, _ in pairs),
      sum(inner(y, y) for _, y in pairs),
      sum(inner(x, y) for x, y in pairs),
    ]
  )


@technique.register_technique(
  'accounting',
  reads=('localise.gradient.clean',),
  check=gradients.check,
)
def accounting(
  source: technique.Source, config: None, report: technique.Report
) -> technique.Findings:
  """Share of the noisy gradient's norm that each layer has.

  Averaged over the epochs after which all subjects have a snapshot.
  """
  epochs = sorted(
    set.intersection(*(set(s.snapshots) for s in source.subjects))
  )
  if not epochs:
    return technique.Findings(
      {},
      notes=(
        'left out, for no weights were kept while the models trained '
        '(train.snapshots keeps them, of main models that are trained here).',
      ),
    )
  rows, weights = [], []
  for number, subject in enumerate(source.subjects):
    norms = []
    for epoch in epochs:
      squares = np.asarray(
        _compare(
          *gradients.group_gradients(
            source,
            subject.snapshots[epoch],
            subject,
            optax.softmax_cross_entropy_with_integer_labels,
            source.batch_size,
          )
        ),
        np.float64,
      )
      noisy, clean = np.sqrt(squares[:2])
      out = np.full_like(noisy, np.nan)
      product = noisy * clean
      cosine = np.divide(squares[2], product, out=out, where=product > 0)
      norms.append(noisy)
      rows += [
        {
          'seed': subject.seed,
          'epoch': epoch,
          'layer': layer + 1,
          'noisy_norm': noisy[layer],
          'clean_norm': clean[layer],
          'cosine': cosine[layer],
        }
        for layer in range(len(noisy))
      ]
    mean = np.mean(norms, axis=0)
    weights.append(mean / mean.sum() if mean.sum() > 0 else mean * np.nan)
    report((number + 1) / len(source.subjects))
  found = technique.LayerScores(np.stack(weights))
  return technique.Findings({'': found}, {'accounting': rows})
