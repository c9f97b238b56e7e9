"""Tables of a made-up study of any size, for tests of the page."""

import numpy as np
import pandas as pd

LAYERS = 3
_WORDS = ('the', 'old', 'sailor', 'never', '<b>that</b>', '&', 'barn')
_LOOKED_AT = 4  # examples with a map over their text
MARKUP = '<img src=x onerror="document.title=1"></script><script>alert(1)'


def tables(count: int, seed: int = 0) -> dict[str, pd.DataFrame]:
  """Examples, pairs of runs and token maps of `count` examples."""
  rng = np.random.default_rng(seed)
  index = np.arange(count)
  noisy = index % 5 == 0
  seen = rng.beta(20, 1, count)
  unseen = np.where(noisy, rng.beta(1, 6, count), rng.beta(6, 2, count))
  texts = [
    f'{i} ' + ' '.join(rng.choice(_WORDS, rng.integers(4, 20))) for i in index
  ]
  texts[1] = MARKUP
  examples = pd.DataFrame(
    {
      'index': index,
      'id': [f'row {i}' for i in index],
      'hash': [f'{i:016x}' for i in index],
      'text': texts,
      'given': np.where(noisy, 'wrong', 'right'),
      'original': 'right',
      'noisy': noisy,
      'training_memorisation': seen,
      'generalisation': unseen,
      'counterfactual_memorisation': seen - unseen,
      'cm_low': seen - unseen - 0.2,
      'cm_high': seen - unseen + 0.1,
      'in_runs': 8,
      'out_runs': 8,
      'training_memorisation_accuracy': 0.96,
      'suggested': np.where(noisy, 'right', None),
      'category': np.where(noisy, 'relabel', 'keep'),
      'label_margin': 1 - 2 * unseen,
      'label_margin_low': 0.9 - 2 * unseen,
      'agreement': 0.875,
      'kind': np.where(index % 7 == 3, 'exception', 'rule'),
      'cluster': index,
      'cluster_size': 1,
      'cluster_labels_disagree': False,
    }
  )
  players = LAYERS + 2
  share = rng.normal(0.1, 0.1, (count, players))
  share[:, 0] = 0
  layers = pd.DataFrame(
    {
      'index': np.repeat(index, players),
      'layer': np.tile(np.arange(players), count),
      'last_layer': np.tile(np.arange(players), count),
      'share': share.ravel(),
      'share_se': 0.05,
    }
  )
  pairs = pd.DataFrame(
    {
      'index': index,
      'training_memorisation_pairs': seen,
      'generalisation_pairs': unseen,
      'cm_pairs': seen - unseen,
      'cm_pairs_low': seen - unseen - 0.1,
      'cm_pairs_high': seen - unseen + 0.1,
      'depth': 2.0,
      'pairs': 4,
    }
  )
  top = np.argsort(unseen - seen)[:_LOOKED_AT]
  tokens = pd.concat(
    [
      pd.DataFrame(
        {
          'index': i,
          'position': np.arange(len(words)) + 1,
          'token': words,
          'word': np.arange(len(words)),
          'contrast': rng.normal(0, 0.2, len(words)),
        }
      )
      for i in top
      for words in [texts[i].split()]
    ]
  )
  return {
    'examples': examples,
    'layers_by_example': layers,
    'pairs_by_example': pairs,
    'tokens_by_example': tokens,
  }
