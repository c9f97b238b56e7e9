"""Probing: from which layer on it can be told that an example is noisy.

Section 3.1 and 5 of Dankers & Titov (2024). Probes read the hidden state at
every layer and tell noisy from clean examples; label probes of the main models
show where given and original labels can be read off.
"""

import functools
from typing import Any

import numpy as np
from sklearn import metrics

from memloc_jax.errors import InputError
from memloc_jax.localisation import events, probes, representations, technique

# Weights of clean and noisy examples in the noise probe's loss.
_NOISE_WEIGHTS = (0.33, 0.67)
NOISE, GIVEN, ORIGINAL = 'noise', 'given', 'original'


def targets(
  given: np.ndarray, original: np.ndarray, classes: int, labels: bool
) -> tuple[tuple[str, ...], probes.Targets]:
  """Names and targets of the probes of one model.

  Args:
    given: int [n].
    original: int [n].
    classes: of the task.
    labels: whether to probe labels as well as noise.
  """
  names = (NOISE, GIVEN, ORIGINAL) if labels else (NOISE,)
  outputs = max(2, classes) if labels else 2
  weights = np.zeros((len(names), outputs), np.float32)
  weights[0, :2] = _NOISE_WEIGHTS
  weights[1:, :classes] = 1
  values = [(given != original).astype(np.int32), given, original]
  return names, probes.Targets(
    np.stack(values[: len(names)]).astype(np.int32),
    weights,
    np.array([name == NOISE for name in names]),
  )


def check(config: probes.ProbeConfig, mislabelled: np.ndarray) -> None:
  """Refuses splits with a part that has no noisy examples, bool [n].

  Raises:
    InputError: naming the part and how many noisy examples there are.
  """
  split = probes.split(
    len(mislabelled), config.seeds, probes.BATCH_SIZE, mislabelled
  )
  for name, indices in split._asdict().items():
    for seed, chosen in enumerate(indices):
      chosen = chosen[chosen >= 0]
      if not mislabelled[chosen].any():
        raise InputError(
          f'Probing needs noisy examples in every part of its split, and '
          f'whatever probe seed {seed} draws has none of the '
          f'{int(mislabelled.sum())} in its {name} part: take more examples, '
          'or leave probing out of --config.localise.techniques.'
        )


def profile(noisy_f1: np.ndarray, frozen_f1: np.ndarray) -> np.ndarray:
  """Rise of the noise probes' F1 at every layer, at least 0.

  Args:
    noisy_f1: of the noisy model, [L + 1, seeds].
    frozen_f1: of the frozen reference, [L + 1, seeds].

  Returns:
    [L]: layer 1 compares with the reference's layer 1, the others with the
    layer below.
  """
  rise = noisy_f1[1:] - noisy_f1[:-1]
  rise[0] = noisy_f1[1] - frozen_f1[1]
  return np.maximum(0, rise.mean(1))


def published_mcog(weights: np.ndarray) -> float:
  """M-CoG as the released notebook computes it, with its slip.

  The numerator takes the last seed's profile, the denominator the mean over
  seeds.

  Args:
    weights: [seeds, L].
  """
  total = weights.mean(0).sum()
  moment = weights[-1] @ np.arange(1.0, weights.shape[1] + 1)
  return float(moment / total) if total > 0 else float('nan')


def _chance(given: np.ndarray, seed: int) -> float:
  """Macro-F1 of the labels against a shuffle of themselves."""
  shuffled = np.random.default_rng(seed).permutation(given)
  return float(metrics.f1_score(given, shuffled, average='macro'))


def measure(
  source: technique.Source,
  checkpoint: technique.Checkpoint,
  subject: technique.Subject,
  config: probes.ProbeConfig,
  labels: bool,
  report: technique.Report,
) -> list[dict[str, Any]]:
  """Rows of `probes` for one checkpoint, without its name and seed."""
  states = representations.extract(
    source.model,
    checkpoint.load(),
    source.examples,
    source.batch_size,
    progress=lambda share: report(share / 2),
  )
  split = probes.split(
    len(subject.given),
    config.seeds,
    probes.BATCH_SIZE,
    subject.mislabelled,
  )
  names, wanted = targets(
    subject.given, subject.original, len(source.label_names), labels
  )
  predicted, epochs = probes.train(config, states, split, wanted)
  rows = []
  for layer, seed, number in np.ndindex(epochs.shape):
    chosen = split.test[seed]
    guess = predicted[layer, seed, number]
    truth = wanted.labels[number, chosen]
    noisy = subject.mislabelled[chosen]
    row = {
      'target': names[number],
      'probe_seed': seed,
      'layer': layer,
      'epoch': int(epochs[layer, seed, number]),
      'f1_noisy': float('nan'),
      'f1_clean': float('nan'),
    }
    if names[number] == NOISE:
      row['f1'] = metrics.f1_score(truth, guess, zero_division=0)
    else:
      macro = lambda at, truth=truth, guess=guess: metrics.f1_score(
        truth[at], guess[at], average='macro', zero_division=0
      )
      row['f1'] = macro(slice(None))
      row['f1_noisy'], row['f1_clean'] = macro(noisy), macro(~noisy)
    rows.append(row)
  return rows


def _by_layer(rows, target: str, column: str) -> np.ndarray:
  """One column of a target, [L + 1, probe seeds]."""
  chosen = [row for row in rows if row['target'] == target]
  seeds = 1 + max(row['probe_seed'] for row in chosen)
  values = [row[column] for row in chosen]
  return np.asarray(values, np.float64).reshape(-1, seeds)


@technique.register_technique(
  'probing',
  settings=probes.ProbeConfig,
  group='probe',
  reads=('paper_quirks.probing_mcog',),
  frozen=True,
  check=check,
)
def probing(
  source: technique.Source, config: probes.ProbeConfig, report: technique.Report
) -> technique.Findings:
  """Rise of the noise probes' F1 from layer to layer."""
  labels = config.labels and source.name == 'main'
  weights, rows, found = [], [], []
  # Subjects can have one reference, and then the same probes read it.
  references = {}
  for number, subject in enumerate(source.subjects):
    half = lambda which, share, number=number: report(
      (number + (which + share) / 2) / len(source.subjects)
    )
    of_noisy = measure(
      source,
      subject.noisy,
      subject,
      config,
      labels,
      functools.partial(half, 0),
    )
    key = (
      subject.frozen.name,
      subject.given.tobytes(),
      subject.original.tobytes(),
    )
    if key not in references:
      references[key] = measure(
        source,
        subject.frozen,
        subject,
        config,
        False,
        functools.partial(half, 1),
      )
    of_frozen = references[key]
    report((number + 1) / len(source.subjects))
    weights.append(
      profile(
        _by_layer(of_noisy, NOISE, 'f1'), _by_layer(of_frozen, NOISE, 'f1')
      )
    )
    for name, measured in (('noisy', of_noisy), ('frozen', of_frozen)):
      rows += [
        {'checkpoint': name, 'seed': subject.seed} | row for row in measured
      ]
    if labels:
      mean = lambda target, column, of_noisy=of_noisy: _by_layer(
        of_noisy, target, column
      ).mean(1)
      happened = {
        'memorisation': events.memorisation(
          mean(GIVEN, 'f1_noisy'), mean(ORIGINAL, 'f1_noisy')
        ),
        'generalisation_90': events.generalisation(
          mean(ORIGINAL, 'f1_clean'), _chance(subject.given, subject.seed)
        ),
      }
      found += [
        {
          'event': event,
          'setup': '',
          'seed': subject.seed,
          'layer': layer,
          'occurred': not np.isnan(layer),
        }
        for event, layer in happened.items()
      ]
  tables = {'probes': rows} | ({'events': found} if found else {})
  return technique.Findings(
    {'': technique.LayerScores(np.stack(weights))}, tables
  )
