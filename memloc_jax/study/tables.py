"""Tables that techniques and commands write, and columns of several tables.

Stages declare theirs beside the code that fills them. Columns are a contract
with users: they may be added; renaming or dropping one is a breaking change,
which CHANGELOG.md names. `python -m memloc_jax.stages` writes the part on
tables of docs/tables.md anew.
"""

import dataclasses
from collections.abc import Iterable

from memloc_jax import schema
from memloc_jax.localisation.technique import TECHNIQUES
from memloc_jax.schema import (
  BOOL,
  COUNT,
  FLOAT,
  INT,
  LAYER,
  POSITIVE,
  PROBABILITY,
  SIGNED,
  SIZE,
  TEXT,
  Kind,
  Table,
  TableError,
)

HALF = Kind(float, 0, 0.5)
# Seeds or runs, and -1 for their mean.
OR_MEAN = Kind(int, -1)
# A centre of layers.
CENTRE = Kind(float, 1, text='1 to L')
WITH_HEAD = Kind(int, 1, text='1 to L + 1')
_WITH_EMBEDDINGS = Kind(int, 0, text='0 to L')

OF_EXAMPLE = {'index': COUNT('the example, as in `examples`')}
_EXAMPLE = {**OF_EXAMPLE, 'id hash': TEXT('as in `examples`')}
# What the rows of every technique have, put in front of those of its tables.
OWN = {
  'technique': TEXT('its name'),
  'source': TEXT(
    "`main`: the study's main models; otherwise the layers of a control, as "
    '`1+2`'
  ),
}
VARIANT = {
  'technique': OWN['technique'],
  'variant': TEXT('of the technique; empty for its plain form'),
}
_TECHNIQUE = {
  **VARIANT,
  'source': OWN['source'],
  'seed': INT('of the models'),
}
# What commands write.
C_SCORE = Table(
  'c_score',
  'training example',
  {
    **_EXAMPLE,
    'c_score': PROBABILITY.or_missing(
      'mean over ratios of `generalisation_accuracy_<ratio>`, all ratios '
      'counting alike; low is atypical or mislabelled; missing where some '
      'ratio has no OUT run'
    ),
    'c_score_se': SIZE.or_missing(
      'its standard error; needs two OUT runs at every ratio; 0 where all '
      'runs of each ratio agree'
    ),
    'c_score_low c_score_high': PROBABILITY.or_missing(
      "95 % interval: Wilson's at one ratio, those of all ratios joined as "
      'by Zou, Huang and Zhang (2009) at several; it says nothing of ratios '
      'that were not tried'
    ),
    'generalisation_accuracy_<ratio>': PROBABILITY.or_missing.or_left_out(
      'for every `map.ratio`, as `generalisation_accuracy_0.5`: share of '
      'its OUT runs that predict the given label'
    ),
    'out_runs_<ratio>': COUNT.or_left_out('number of these runs'),
  },
  text=(
    'The C-score (Jiang et al., 2021) is the chance that a model trained on '
    'a random subset without the example predicts its given label, as a '
    'mean over sizes of the subset. A study has one size, `map.ratio`; so '
    'run studies of the same data that differ in nothing but `map.ratio` '
    '(and `map.seed`, where one ratio has several), each in its own '
    'workdir, and then\n\n'
    '```\n'
    '.venv/bin/memloc c-score workdirs/ratio_0.3 workdirs/ratio_0.5 '
    'workdirs/ratio_0.7\n'
    '```\n\n'
    'writes the table into the first workdir, or to `--output`, a new '
    '`.csv` or `.parquet`. Workdirs are refused if their examples, given '
    'labels or models differ, or if they have runs in common. With a single '
    'ratio the score is `generalisation_accuracy`, and the command says so.'
  ),
)
CORRECTIONS = Table(
  'corrections',
  'example that a curator has decided on',
  {
    **_EXAMPLE,
    'given': TEXT('as in `examples`'),
    'label': TEXT.or_missing(
      'the right label; missing where the example was dropped'
    ),
    'decision': TEXT('`keep`, `relabel` or `drop`'),
    'stale': BOOL(
      "whether `label` is not `given`: the example's scores are then of an "
      'old label'
    ),
  },
  text='Written by `memloc apply`.',
)
SAMPLE = Table(
  'sample',
  'training example',
  {
    **_EXAMPLE,
    'stratum': POSITIVE(
      'by the rank of the doubt when the sample was drawn, 1 the most doubtful'
    ),
    'probability': PROBABILITY(
      'of being offered: the same for all examples of a stratum'
    ),
    'offered': BOOL('whether it is in `sample.csv`'),
  },
  text='Written by `memloc check`, see [curation.md](curation.md).',
)
OF_COMMANDS = (C_SCORE, CORRECTIONS, SAMPLE)
# What techniques write parts of.
OF_TECHNIQUES = (
  Table(
    'layers',
    'technique, variant, source, seed and layer',
    {
      **_TECHNIQUE,
      'layer': LAYER('the layer l'),
      'raw': SIZE.or_missing(
        "the technique's score, for those that edit windows see `windows`; "
        'higher is more memorisation'
      ),
      'weight': PROBABILITY.or_missing(
        '`raw` over its sum over layers; missing if that is 0'
      ),
    },
  ),
  Table(
    'mcog',
    'technique, variant, source and seed, and one with `seed = -1` for the '
    'mean profile of all seeds',
    {
      **VARIANT,
      'source': OWN['source'],
      'seed': OR_MEAN('of the model, or -1'),
      'mcog': CENTRE.or_missing(
        'Σ l · raw[l] / Σ raw[l]; higher is deeper, (L + 1) / 2 is a flat '
        'profile'
      ),
      'attainable_low attainable_high': CENTRE(
        'what it would be with all memory in the first or in the last layer: '
        'for `swapping`, `retraining` and `rewinding`, windows overlap, which '
        'blurs; 1 and L for the others'
      ),
      'mcog_calibrated': Kind(float, text='about 1 to L').or_missing(
        '`mcog` stretched so that this range becomes 1 to L; a flat profile '
        'stays'
      ),
    },
    text='Centre of gravity of memorisation (M-CoG).',
  ),
  Table(
    'windows',
    'technique, variant, source, seed and contiguous window of layers',
    {
      **_TECHNIQUE,
      'first last': LAYER('the window, inclusive'),
      'noisy_accuracy': PROBABILITY(
        'A(w), on noisy examples and given labels; low where the window holds '
        'them'
      ),
      'noisy_original_accuracy': PROBABILITY(
        'on noisy examples and original labels'
      ),
      'clean_accuracy': PROBABILITY.or_missing(
        'on clean examples: all of them, those held out from retraining, or a '
        'random sample, as many as are noisy, for ablation'
      ),
      'matched_accuracy': PROBABILITY.or_missing.or_left_out(
        'on clean examples of the same margin; ablation only'
      ),
    },
    text=(
      'A network of L layers has L(L + 1) / 2 windows. What is done to the '
      'layers of a window depends on the [technique](techniques.md): '
      '`swapping`, `retraining`, `rewinding` or `ablation`.'
    ),
    note=(
      'The heat map in the report is H[n, l] = 1 - mean{A(w): w has n layers, '
      'one of them l}; E[l] is its mean over n. The profile of `swapping` and '
      '`rewinding` is E. That of `retraining` is E over the error of the '
      'window of all layers, seed by seed; that of `ablation` is E minus the '
      'same with `matched_accuracy` as A, or 0 if that is negative.'
    ),
  ),
  Table(
    'probes',
    'probe',
    {
      **OWN,
      'checkpoint': TEXT(
        '`noisy` model or `frozen` reference; one that several seeds have in '
        'common is measured once, and its rows stand under each of them'
      ),
      'target': TEXT(
        '`noise`: is the example noisy? `given`, `original`: its label'
      ),
      'seed': INT('of the models'),
      'probe_seed': COUNT('of split, weights and batches'),
      'layer': _WITH_EMBEDDINGS('0 is the embedding output'),
      'epoch': COUNT('whose weights were selected on validation F1'),
      'f1': PROBABILITY(
        "on the probe's test examples: of the noisy ones for `noise`, "
        'macro-averaged for labels'
      ),
      'f1_noisy f1_clean': PROBABILITY.or_missing(
        'macro-averaged over the noisy and the clean test examples, of label '
        'probes'
      ),
    },
  ),
  Table(
    'centroids',
    'technique, source, seed, pair of classes, layer and group',
    {
      **OWN,
      'setup': TEXT(
        '`noisy` model, or with its lower (`clean_bottom`) or upper half '
        '(`clean_top`) from the clean one'
      ),
      'seed': INT('of the models'),
      'given original': TEXT(
        'names of the classes, of which those without clean examples are left '
        'out; `all` for all pairs pooled, each point counting once'
      ),
      'layer': _WITH_EMBEDDINGS('0 is the embedding output'),
      'group': TEXT(
        '`given`, `original`: clean examples of these classes; `noisy`: those '
        'moved from the one to the other'
      ),
      'count': POSITIVE('members of the group'),
      'mean': FLOAT.or_missing('of the coordinate'),
      'low': FLOAT.or_missing('its 12.5th percentile'),
      'median': FLOAT.or_missing('its median'),
      'high': FLOAT.or_missing('its 87.5th percentile'),
    },
    text=(
      "Coordinates of hidden states between two classes' centroids: 0 at that "
      'of the given class, 1 at that of the original one.'
    ),
  ),
  Table(
    'events',
    'event and seed, and one with `seed = -1` for the mean over seeds',
    {
      **OWN,
      'event': TEXT(
        '`crossing`: noisy examples come closer to the given class; '
        '`initiation`: classes stay apart from here on; `memorisation`: '
        'probes read given labels of noisy examples better than original '
        'ones; `generalisation_90`: probes reach 90 % of their best F1 on '
        'clean examples'
      ),
      'setup': TEXT('as in `centroids`; empty for probes'),
      'seed': OR_MEAN('of the models, or -1'),
      'layer': Kind(float, 0, text='0 to L + 1').or_missing(
        'the layer, missing if the event does not occur; in the mean such a '
        'seed is censored and counts as L + 1, so the mean is a lower bound'
      ),
      'occurred': BOOL('whether it did, for the mean in any seed'),
      'censored': COUNT('number of seeds in which it did not'),
    },
    text='First layers at which something has happened.',
  ),
  Table(
    'heads',
    'technique, source, seed and attention head',
    {
      **OWN,
      'seed': INT('of the models'),
      'layer head': POSITIVE('which head is cut'),
      'noisy_accuracy noisy_original_accuracy': PROBABILITY.or_missing(
        'without it, as in `windows`'
      ),
      'clean_accuracy matched_accuracy': PROBABILITY.or_missing(
        'the same, on clean examples'
      ),
    },
  ),
  Table(
    'accounting',
    'technique, source, seed, epoch and layer',
    {
      **OWN,
      'seed': INT('of the models'),
      'epoch': POSITIVE('after which the weights were kept'),
      'layer': LAYER('block'),
      'noisy_norm clean_norm': SIZE('Euclidean norms'),
      'cosine': SIGNED.or_missing('between the two; missing if one is 0'),
    },
    text=(
      'Mean loss gradients of noisy and of as many clean examples after some '
      'epochs of the noisy model.'
    ),
  ),
)

_BEGIN = '<!-- From here on: python -m memloc_jax.stages -->\n'
_END = '<!-- Up to here. -->\n'
_VERDICTS = """## Verdicts

Tables that compare something with a reference, such as chance or 0, have a
verdict in each row: *supported*, *contradicted*, *equivalent within δ*, or
*cannot be told* ([how it is formed](reliability.md#verdicts)). All rows of a
table are judged together.
"""
_PLAIN = """The other intervals (`low`, `high` and the like) are 95 % each and
not adjusted.
"""


def of_techniques() -> dict[str, Table]:
  """Tables that techniques write, by name, those of their own too.

  Raises:
    TableError: a technique's own has the name of another one.
  """
  found = {table.name: table for table in OF_TECHNIQUES}
  for technique in TECHNIQUES.values():
    for own in technique.tables:
      table = dataclasses.replace(own, columns={**OWN, **own.columns})
      if found.setdefault(own.name, table) != table:
        raise TableError(
          f'The technique {technique.name} brings a table {own.name}, but '
          'there is another one of that name.'
        )
  return found


def page(text: str, declared: Iterable[Table]) -> str:
  """The text of docs/tables.md, its part on tables made anew.

  Args:
    text: of the page, with marks around that part.
    declared: the tables, in the order of the page.
  """
  before, _, rest = text.partition(_BEGIN)
  after = rest.partition(_END)[2]
  parts = [
    _VERDICTS,
    schema.described({**schema.VERDICT, **schema.BESIDE}) + '\n',
    _PLAIN,
    *(table.markdown() for table in declared),
  ]
  return '\n'.join([before + _BEGIN, *parts, _END]) + after
