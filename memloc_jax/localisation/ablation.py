"""Layer ablation: what is lost where blocks, their parts or heads are cut.

An ablation that breaks the model loses noisy and clean labels alike, and
examples that were classified by a narrow margin first; so the noisy examples
are compared with clean ones of the same margin.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memloc_jax.localisation import (
  gradients,
  hypotheses,
  representations,
  technique,
)
from memloc_jax.models import interface
from memloc_jax.models.interface import Edit
from memloc_jax.settings import Range, differ, setting

VARIANTS = (
  'skip',
  'attention-zero',
  'attention-mean',
  'mlp-zero',
  'mlp-mean',
)


@dataclasses.dataclass(frozen=True)
class AblationConfig:
  """Layer ablation.

  Attributes:
    variants: what is done to the blocks of a window: 'skip' leaves them out;
      'attention-zero', 'attention-mean', 'mlp-zero' and 'mlp-mean' replace
      an output by zero or by its mean over tokens.
    heads: whether to ablate single attention heads too.
  """

  variants: tuple[str, ...] = setting(
    ('skip', 'attention-mean', 'mlp-mean'),
    Range(
      f'some of {", ".join(VARIANTS)}, each once',
      lambda names: names and set(names) <= set(VARIANTS) and differ(names),
    ),
  )
  heads: bool = setting(True)


def margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Logit of the label minus the largest other one, [n]."""
  own = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
  others = logits.copy()
  np.put_along_axis(others, labels[:, None], -np.inf, 1)
  return own - others.max(1)


def match(margin: np.ndarray, mislabelled: np.ndarray) -> np.ndarray:
  """A clean partner of similar margin for every noisy example.

  Noisy examples choose in order of falling margin, each the nearest clean
  example that is left; no clean example is chosen twice.

  Args:
    margin: of all examples, [n].
    mislabelled: bool [n], at most half of them True.

  Returns:
    Indices of the partners, one a noisy example in its order.
  """
  free = np.flatnonzero(~mislabelled)
  noisy = np.flatnonzero(mislabelled)
  partner = np.empty(len(noisy), np.int64)
  for at in np.argsort(-margin[noisy], kind='stable'):
    nearest = np.argmin(np.abs(margin[free] - margin[noisy[at]]))
    partner[at] = free[nearest]
    free = np.delete(free, nearest)
  return partner


@functools.partial(jax.jit, static_argnames='model')
def _site_sums(model, params, tokens, real):
  """Sums of attention and MLP outputs over real tokens, two [L, width]."""
  mask = interface.real_tokens(tokens)
  counts = (mask & real[:, None])[:, :, None]
  constants = jax.tree.map(jnp.asarray, model.constants())

  def run(h, inputs):
    block, of_layer = inputs
    sums = {}

    def note(site, x):
      exact = jnp.where(counts, x, 0.0).astype(jnp.float32)
      sums[site] = jnp.sum(exact, axis=(0, 1))
      return x

    edits = {
      site: functools.partial(note, site) for site in ('attention', 'mlp')
    }
    return model.block(block, of_layer, h, mask, None, edits), sums

  h = model.embed(params['embeddings'], tokens, None)
  return lax.scan(run, h, (params['blocks'], constants))[1]


@functools.partial(jax.jit, static_argnames=('model', 'variant'))
def _predict(model, variant, params, means, tokens):
  mask = interface.real_tokens(tokens)
  constants = jax.tree.map(jnp.asarray, model.constants())
  site, _, how = variant.partition('-')

  def apply(treated, layer, h, read):
    at = lambda tree: jax.tree.map(lambda x: x[layer], tree)
    edits = {}
    if site != 'skip':
      keep = (1 - treated).astype(h.dtype).reshape(1, 1, 1)
      value = jnp.zeros((1, 1, 1), h.dtype)
      if how == 'mean':
        value = (means[site][layer] * treated)[None, None]
      edits = {site: Edit(keep, value)}
    block = at(params['blocks'])
    after = model.block(block, at(constants), h, mask, None, edits, read)
    if site != 'skip':
      return after
    return jnp.where(treated == 1, h if read is None else read(h), after)

  embedded = model.embed(params['embeddings'], tokens, None)
  logits = hypotheses.logits(model, params, apply, embedded, tokens)
  return jnp.argmax(logits, -1).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames='model')
def _predict_heads(model, params, tokens):
  """Predictions without each head, [1 + L * heads, batch]; none cut first."""
  mask = interface.real_tokens(tokens)
  constants = jax.tree.map(jnp.asarray, model.constants())
  plain = interface.forward(model, params, tokens, hidden='all')
  streams = plain.hidden
  assert streams is not None  # As asked for.
  layers = jnp.arange(model.num_layers)

  def cut(carry, which):
    layer, head = which
    keep = (jnp.arange(model.num_heads) != head).astype(streams.dtype)
    edit = Edit(keep[None, None, :, None], jnp.zeros((1, 1, 1, 1)))

    def run(h, inputs):
      block, of_layer, number = inputs
      one = lambda edits: model.block(block, of_layer, h, mask, None, edits)
      # What lies below the cut is known already.
      return lax.switch(
        jnp.sign(number - layer) + 1,
        (lambda: h, lambda: one({'heads': edit}), lambda: one({})),
      ), None

    h, _ = lax.scan(run, streams[layer], (params['blocks'], constants, layers))
    x = model.read_out(model.finish(params['final'], h), tokens)
    return carry, model.head(params['final'], params['heads']['main'], x, None)

  every = jnp.stack(
    [
      jnp.repeat(layers, model.num_heads),
      jnp.tile(jnp.arange(model.num_heads), model.num_layers),
    ],
    axis=1,
  )
  _, logits = lax.scan(cut, None, every)
  everything = jnp.concatenate([plain.logits[None], logits])
  return jnp.argmax(everything, -1).astype(jnp.int32)


def _site_means(model, params, examples, chosen, batch_size):
  """Mean output over the real tokens of the chosen examples, by site."""
  total, count = None, int(examples.length[chosen].sum())
  for rows, real, tokens in representations.batches(
    examples, chosen, batch_size
  ):
    sums = _site_sums(model, params, tokens, np.arange(len(rows)) < real)
    sums = jax.tree.map(lambda x: np.asarray(x, np.float64), sums)
    total = sums if total is None else jax.tree.map(np.add, total, sums)
  return jax.tree.map(lambda x: (x / count).astype(np.float32), total)


@technique.register_technique(
  'ablation', settings=AblationConfig, check=gradients.check
)
def ablation(
  source: technique.Source, config: AblationConfig, report: technique.Report
) -> technique.Findings:
  """Error on noisy labels beyond that on clean ones of the same margin.

  One variant for each of `config.variants`. To bound the cost, only
  the noisy examples, their partners and as many random clean ones are run.
  Where a long window loses partners too, nothing is left of its error, so the
  profile is not held to the range of `windows.mcog_range`.
  """
  model, batch_size = source.model, source.batch_size
  found: dict[str, list[np.ndarray]] = {
    variant: [] for variant in config.variants
  }
  window_rows, head_rows = [], []
  jobs = len(source.subjects) * (len(found) + config.heads)
  done = 0
  for subject in source.subjects:
    noisy, drawn = gradients.groups(subject.mislabelled, subject.seed)
    params = jax.device_put(subject.noisy.load())
    logits = representations.logits(model, params, source.examples, batch_size)
    matched = match(margins(logits, subject.given), subject.mislabelled)
    chosen = np.unique(np.concatenate([noisy, matched, drawn]))
    means = _site_means(model, params, source.examples, chosen, batch_size)
    groups = {'matched': matched, 'clean': drawn}
    measure = lambda program, subject=subject, chosen=chosen, groups=groups: (
      hypotheses.accuracies(
        hypotheses.predict(program, source.examples, chosen, batch_size),
        subject.given,
        subject.original,
        **groups,
      )
    )
    for variant, weights in found.items():
      accuracies = measure(
        functools.partial(_predict, model, variant, params, means)
      )
      lost = hypotheses.error(accuracies.noisy)
      expected = hypotheses.error(accuracies.matched)
      weights.append(np.maximum(0, lost - expected))
      window_rows += hypotheses.rows(variant, subject.seed, accuracies)
      done += 1
      report(done / jobs)
    if config.heads:
      accuracies = measure(functools.partial(_predict_heads, model, params))
      head_rows += _head_rows(model.num_heads, subject.seed, accuracies)
      done += 1
      report(done / jobs)
  return technique.Findings(
    {
      variant: technique.LayerScores(np.stack(weights))
      for variant, weights in found.items()
    },
    {'windows': window_rows} | ({'heads': head_rows} if head_rows else {}),
  )


def _head_rows(num_heads: int, seed: int, found: hypotheses.Accuracies):
  return [
    {
      'seed': seed,
      'layer': 1 + at // num_heads,
      'head': 1 + at % num_heads,
      'noisy_accuracy': found.noisy[1 + at],
      'noisy_original_accuracy': found.noisy_original[1 + at],
      'clean_accuracy': found.clean[1 + at],
      'matched_accuracy': found.matched[1 + at],
    }
    for at in range(len(found.noisy) - 1)
  ]
