"""The tables that a study writes: their columns are a contract with users.

Columns may be added; none is renamed or dropped.
"""

import pandas as pd

from memloc_jax.estimators import verdicts
from memloc_jax.study.single_examples import SINGLE_EXAMPLES

_SCORES = (
  'training_memorisation',
  'generalisation',
  'counterfactual_memorisation',
  'cm_se',
  'cm_low',
  'cm_high',
)
_DYNAMICS = (
  'forgetting',
  'never_learned',
  'learning_epoch',
  'censored',
  'confidence',
  'variability',
  'correctness',
  'aum',
  'el2n',
)

COLUMNS: dict[str, tuple[str, ...]] = {
  # One row a training example. Scores are probabilities of the given label
  # in [0, 1] (memorisation in [-1, 1], higher is more memorised); those that
  # end in _accuracy are shares of runs that predict the given label.
  'examples': (
    'index',
    'id',
    'hash',
    'text',
    'given',
    'original',
    'noisy',
    *_SCORES,
    'in_runs',
    'out_runs',
    *(f'{name}_accuracy' for name in _SCORES),
    'cm_q',
    'flagged',
    'suggested',
    'category',
    'label_margin',
    'label_margin_low',
    'agreement',
    'data_value',
    'data_value_se',
    'held_out_value',
    'held_out_value_se',
    'attack_auc',
    'cluster',
    'cluster_size',
    'cluster_labels_disagree',
  ),
  # One row an example: shares of the OUT runs that predict the given label, as
  # a mean over several studies' ratios; two more columns for each ratio.
  'c_score': (
    'index',
    'id',
    'hash',
    'c_score',
    'c_score_se',
    'c_score_low',
    'c_score_high',
  ),
  # One row an example that a curator has decided on. `label` is the right one,
  # missing where the example was dropped; `stale` says that it is not the one
  # that was given, so that the example's scores are of an old label.
  'corrections': (
    'index',
    'id',
    'hash',
    'given',
    'label',
    'decision',
    'stale',
  ),
  # One row an example (by index) and a training example that helps it, the
  # most helpful first.
  'influence': ('index', 'rank', 'helper', 'influence', 'influence_se'),
  # How many runs a map needs for intervals or a ranking of a given quality.
  'forecast': ('quantity', 'share', 'runs', 'value', 'wanted', 'needed'),
  # GraNd: one row an example and layer (1-based; the one behind the last is
  # head and final norm), means over IN and over OUT runs.
  'gradient_norms': (
    'index',
    'layer',
    'grand_in',
    'grand_out',
    'in_runs',
    'out_runs',
  ),
  # Variance between the runs of a crossed block, by where it comes from.
  'variance': (
    'index',
    'subset',
    'seed',
    'residual',
    'instability',
    'seed_share',
  ),
  # Means over examples, with 95 % bootstrap intervals over subsets.
  'variance_summary': (
    'component',
    'value',
    'low',
    'high',
    'subsets',
    'seeds',
  ),
  # Training dynamics: one row an example; means over IN and over OUT runs.
  'dynamics': (
    'index',
    'memorised_epoch',
    'predicted',
    *(f'{name}_{side}' for side in ('in', 'out') for name in _DYNAMICS),
  ),
  # Memorisation on the way: one row a group (all, noisy, clean) and epoch.
  'dynamics_epochs': (
    'group',
    'epoch',
    'examples',
    'memorisation',
    'se',
    'low',
    'high',
    'in_accuracy',
    'out_accuracy',
    'memorised',
  ),
  # How well one run alone predicts memorisation; run -1 is the mean of them.
  'single_run': (
    'run',
    'examples',
    'r2',
    'r2_low',
    'r2_high',
    'r2_in',
    'r2_out',
    'reliability',
    'corrected',
    'corrected_low',
    'corrected_high',
    'equivalent_runs',
  ),
  # Membership inference: one row an attack, scope and false positive rate.
  'privacy': (
    'attack',
    'scope',
    'auc',
    'auc_low',
    'auc_high',
    'fpr',
    'tpr',
    'tpr_low',
    'tpr_high',
    'num_targets',
    'num_members',
    'num_non_members',
  ),
  # Points of the pooled ROC, for logarithmic axes.
  'privacy_curve': ('attack', 'fpr', 'tpr'),
  # One row a run. Layers count from 1; epoch_memorised is the first evaluated
  # epoch with a training macro-F1 of at least 0.993, missing if there is none.
  'runs': (
    'run',
    'table',
    'purpose',
    'seed',
    'label_set',
    'start',
    'subset_size',
    'learning_rate',
    'epochs',
    'first_trainable',
    'last_trainable',
    'lanes',
    'config_hash',
    'status',
    'epoch_memorised',
    'train_macro_f1',
    'validation_macro_f1',
  ),
  # One row a run and epoch, on the run's own examples and given labels: mean
  # loss while training (dropout on), then accuracy and macro-F1 of the
  # evaluation after the epoch, missing where there was none.
  'history': ('run', 'epoch', 'loss', 'accuracy', 'macro_f1'),
  # One row a technique, seed and window of layers (1-based, inclusive).
  'windows': (
    'technique',
    'variant',
    'source',
    'seed',
    'first',
    'last',
    'noisy_accuracy',
    'noisy_original_accuracy',
    'clean_accuracy',
  ),
  # One row a technique, seed and layer (1-based); weights sum to 1.
  'layers': (
    'technique',
    'variant',
    'source',
    'seed',
    'layer',
    'raw',
    'weight',
  ),
  # Centre of gravity; seed -1 is that of the seed-averaged profile. The
  # attainable range is mcog_low to mcog_high, and mcog_calibrated is the
  # centre stretched from that range to 1 to L. Verdicts are on the averaged
  # profiles of main models.
  'mcog': (
    'technique',
    'variant',
    'source',
    'seed',
    'mcog',
    'mcog_low',
    'mcog_high',
    'mcog_calibrated',
    *verdicts.PLAIN,
  ),
  # One row a control model, technique and variant. `layers` names those that
  # could learn, 'rising' or 'falling' for graded rates; the rank correlation
  # is that of the weights with these rates.
  'control': (
    'technique',
    'variant',
    'setup',
    'layers',
    'first',
    'last',
    'seed',
    'top1_in_pair',
    'top2_in_pair',
    'rank_correlation',
  ),
  # The same over pairs and seeds, with 95 % intervals clustered by seed, and
  # verdicts against chance and trivial baselines.
  'control_summary': (
    'technique',
    'variant',
    'setup',
    'baseline',
    'accuracy_1',
    'accuracy_1_low',
    'accuracy_1_high',
    'accuracy_2',
    'accuracy_2_low',
    'accuracy_2_high',
    'rank_correlation',
    'rank_correlation_low',
    'rank_correlation_high',
    'chance',
    'num_sources',
    'num_seeds',
    *verdicts.COLUMNS,
  ),
  # Pearson correlations between techniques, of layers' weights or of M-CoG.
  'correlations': (
    'quantity',
    'source',
    'technique_a',
    'technique_b',
    'pearson',
    'low',
    'high',
    'num_points',
    *verdicts.PLAIN,
  ),
  # One row a probe; layer 0 is the embedding output.
  'probes': (
    'technique',
    'source',
    'checkpoint',
    'target',
    'seed',
    'probe_seed',
    'layer',
    'epoch',
    'f1',
    'f1_noisy',
    'f1_clean',
  ),
  # Coordinates between class centroids: 0 at the given, 1 at the original.
  'centroids': (
    'technique',
    'source',
    'setup',
    'seed',
    'given',
    'original',
    'layer',
    'group',
    'count',
    'mean',
    'low',
    'median',
    'high',
  ),
  # First layers at which something happens; seed -1 is the mean over seeds,
  # where an event that does not occur counts as L + 1.
  'events': (
    'technique',
    'source',
    'event',
    'setup',
    'seed',
    'layer',
    'occurred',
    'censored',
  ),
  # Accuracies without one attention head.
  'heads': (
    'technique',
    'source',
    'seed',
    'layer',
    'head',
    'noisy_accuracy',
    'noisy_original_accuracy',
    'clean_accuracy',
    'matched_accuracy',
  ),
  # Norms of the mean loss gradients of noisy and clean examples, and cosine.
  'accounting': (
    'technique',
    'source',
    'seed',
    'epoch',
    'layer',
    'noisy_norm',
    'clean_norm',
    'cosine',
  ),
  # How unusual a text is: one row an example and length of n-grams of words.
  'ngrams': ('index', 'order', 'rarity', 'overlap'),
  # Spearman's correlation of that, and of the length, with memorisation.
  'covariates': (
    'measure',
    'order',
    'group',
    'spearman',
    'low',
    'high',
    'examples',
    *verdicts.PLAIN,
  ),
  **SINGLE_EXAMPLES,
  # How well scores find planted examples, with 95 % bootstrap intervals, and
  # verdicts against chance and trivial scores.
  'detection': (
    'score',
    'positives',
    'negatives',
    'within_class',
    'auroc',
    'auroc_low',
    'auroc_high',
    'average_precision',
    'ap_low',
    'ap_high',
    'num_positive',
    'num_negative',
    'num_excluded',
    'baseline',
    *verdicts.COLUMNS,
  ),
}


def check(name: str, table: pd.DataFrame) -> None:
  """Raises ValueError if a table breaks the contract."""
  missing = [column for column in COLUMNS[name] if column not in table]
  if missing:
    raise ValueError(f'Table {name} lacks the columns {missing}.')
