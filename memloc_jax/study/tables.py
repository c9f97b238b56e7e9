"""The tables that a study writes: their columns are a contract with users.

Columns may be added; renaming or dropping one is a breaking change, which
CHANGELOG.md names. A stage can declare its tables beside the code that fills
them, as `estimation` does. `python -m memloc_jax.stages` writes the part on
tables of docs/tables.md anew.
"""

import dataclasses
from collections.abc import Iterable

from memloc_jax import schema
from memloc_jax.localisation.scores import TECHNIQUES
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

_HALF = Kind(float, 0, 0.5)
_UP_TO_1 = Kind(float, high=1)
_DIFFERENCE = Kind(float, -2, 2)
# Seeds or runs, and -1 for their mean.
_OR_MEAN = Kind(int, -1)
# A centre of layers.
_CENTRE = Kind(float, 1, text='1 to L')
_WITH_HEAD = Kind(int, 1, text='1 to L + 1')
_WITH_EMBEDDINGS = Kind(int, 0, text='0 to L')
_EVERYWHERE = Kind(int, 0, text='0 to L + 1')

_OF_EXAMPLE = {'index': COUNT('the example, as in `examples`')}
_EXAMPLE = {**_OF_EXAMPLE, 'id hash': TEXT('as in `examples`')}
# What the rows of every technique have, put in front of those of its tables.
_OWN = {
  'technique': TEXT('its name'),
  'source': TEXT(
    "`main`: the study's main models; otherwise the layers of a control, as "
    '`1+2`'
  ),
}
_VARIANT = {
  'technique': _OWN['technique'],
  'variant': TEXT('of the technique; empty for its plain form'),
}
_TECHNIQUE = {
  **_VARIANT,
  'source': _OWN['source'],
  'seed': INT('of the models'),
}
_GROUP = {
  'source': TEXT('`main`, or the layers that could learn in a control'),
  'group': TEXT(
    '`all`, `noisy`, `clean`, or `class` and the name of the given label'
  ),
}
_PLAYER = {'layer last_layer': _WITH_HEAD('as in `layers_by_example`')}
_ALL = (
  Table(
    'runs',
    'fine-tuning',
    {
      'run': COUNT('number of the run in this study'),
      'table': TEXT(
        '`main` (all examples), `control` (control models), `map` (random '
        'subsets), `map-1`, `map-2`, ... (those added later)'
      ),
      'purpose': TEXT('`noisy`, `clean`, `frozen` or `map`'),
      'seed': INT('of head, batch order and dropout'),
      'label_set': COUNT(
        '0: original labels; r: the r-th draw of wrong labels, or, with '
        "`task.true_label`, the source's labels"
      ),
      'start': TEXT(
        'where the weights began: `pretrained`, `random`, `run`, `mixture`; '
        '`given` for a model that was fine-tuned elsewhere (`model.noisy`, '
        '`model.clean`)'
      ),
      'subset_size': POSITIVE('number of examples trained on'),
      'learning_rate': SIZE.or_missing('peak; missing for a given model'),
      'epochs': COUNT('epochs trained here; 0 for a given model'),
      'first_trainable last_trainable': LAYER.or_missing(
        'first and last layer that trains; missing if none does, and for a '
        'given model'
      ),
      'lanes': POSITIVE(
        'runs per device that it was trained beside, itself included'
      ),
      'config_hash': TEXT("hash of everything that decides the run's result"),
      'status': TEXT(
        '`done`, or `diverged` (loss not finite; left out everywhere)'
      ),
      'epoch_memorised': POSITIVE.or_missing(
        'first evaluated epoch with training macro-F1 of at least 0.993; '
        'missing if there is none, and for a given model'
      ),
      'train_macro_f1': PROBABILITY.or_missing(
        'at the end, own examples, given labels'
      ),
      'validation_macro_f1': PROBABILITY.or_missing(
        'at the end, validation set; missing without one'
      ),
    },
  ),
  Table(
    'history',
    'run and epoch; a single one, of epoch 0, for a given model',
    {
      'run': COUNT('as in `runs`'),
      'epoch': COUNT('finished epochs'),
      'loss': Kind(float, 0, text='nats, from 0').or_missing(
        "mean cross-entropy of the epoch's steps, dropout on; missing for a "
        'given model, not finite where the run diverged'
      ),
      'accuracy': PROBABILITY.or_missing(
        'after the epoch, own examples, given labels; missing where not '
        'evaluated'
      ),
      'macro_f1': PROBABILITY.or_missing(
        'the same, mean of the F1 of the classes'
      ),
    },
  ),
  Table(
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
  ),
  Table(
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
  ),
  Table(
    'influence',
    'training example and another one that helps it',
    {
      'index': COUNT('the example that is helped'),
      'rank': Kind(int, 1, 10)('1 for its largest influence'),
      'helper': COUNT('the training example that helps, by its `index`'),
      'influence': SIGNED(
        'mean over runs that saw the helper minus mean over the others, of the '
        'probability of the label'
      ),
      'influence_se': SIZE.or_missing('its standard error, as `cm_se`'),
    },
    text=(
      'These are the ten with the largest influence, the example itself left '
      'out. Influence is that of Feldman and Zhang (2020): how much more '
      'probable the given label is, on average, with runs that saw the helper '
      'than with runs that did not. Most of these numbers are noise where '
      'runs are few; the standard error says so.'
    ),
  ),
  Table(
    'gradient_norms',
    'training example and layer',
    {
      **_OF_EXAMPLE,
      'layer': _WITH_HEAD('layer; L + 1 is head and final norm'),
      'grand_in': SIZE.or_missing(
        'mean norm over IN runs; missing without any'
      ),
      'grand_out': SIZE.or_missing(
        'mean norm over OUT runs; missing without any'
      ),
      'in_runs out_runs': COUNT('numbers of these runs'),
    },
    text=(
      'Of the first `map.gradient_runs` map runs after epoch '
      "`map.gradient_epoch` (or after a run's last, where it stopped before): "
      "the L2 norm of the gradient of the example's loss (cross-entropy of "
      'the given label, evaluation mode), which is GraNd (Paul et al., 2021, '
      'section 2) layer by layer. IN runs had trained on the example by then. '
      'No table without `map.gradient_runs`.'
    ),
  ),
  Table(
    'variance',
    'training example',
    {
      **_OF_EXAMPLE,
      'subset': Kind(float, text='about 0 to 0.25').or_missing(
        'variance between subsets: what else a run has seen; unbiased, so '
        'below 0 at times'
      ),
      'seed': Kind(float, text='about 0 to 0.25').or_missing(
        'between seeds, by what they do to all subsets alike; unbiased too'
      ),
      'residual': _HALF.or_missing('what is left, the interaction of both'),
      'instability': _HALF.or_missing(
        'mean variance between seeds for a given subset: `seed` and '
        '`residual` together'
      ),
      'seed_share': PROBABILITY.or_missing(
        '`seed` over the sum of the three, each at least 0; missing where all '
        'are 0'
      ),
    },
    text=(
      'Of `map.crossed` runs: each of some subsets under each of some seeds '
      '(head, batch order and dropout). The variance between runs of the '
      'probability of the given label, in components of a two-way '
      'random-effects analysis of variance (Searle, Casella and McCulloch, '
      '1992, section 4.7), within the subsets that hold the example and '
      'within those that do not, both counting alike: memorisation itself is '
      'in no component. No table without `map.crossed`.'
    ),
  ),
  Table(
    'variance_summary',
    'component of the variance',
    {
      'component': TEXT(
        '`subset`, `seed`, `residual`, `instability`; `seed_share` and '
        '`instability_share`, these over the sum of all'
      ),
      'value low high': FLOAT.or_missing(
        'mean over examples and its 95 % interval, by resampling subsets, too '
        'narrow where they are few; of shares, the ratio of the means'
      ),
      'subsets seeds': Kind(int, 2)('numbers of them that were compared'),
    },
  ),
  Table(
    'dynamics',
    'training example',
    {
      **_OF_EXAMPLE,
      'memorised_epoch': POSITIVE.or_missing(
        'first logged epoch at which counterfactual memorisation is at least '
        '0.25 and its 95 % interval is above 0; missing if there is none'
      ),
      'predicted': Kind(float, text='about -1 to 1').or_missing(
        'memorisation as predicted from single runs out of fold, their mean, '
        'see `single_run`; missing without that table'
      ),
      'forgetting_in forgetting_out': SIZE.or_missing(
        'forgetting events (Toneva et al., 2019): how often the given label '
        'is predicted at one logged epoch and no longer at the next; mean '
        'over the runs that predict it at some epoch, missing if none does'
      ),
      'never_learned_in never_learned_out': PROBABILITY.or_missing(
        'share of the runs that predict it at no logged epoch'
      ),
      'learning_epoch_in learning_epoch_out': Kind(float, 1).or_missing(
        'first logged epoch from which on it is predicted; a run that does '
        'not at the end is censored and counts as the epoch after the last, '
        'so the mean is a lower bound'
      ),
      'censored_in censored_out': PROBABILITY.or_missing('share of these runs'),
      'confidence_in confidence_out': PROBABILITY.or_missing(
        'dataset cartography (Swayamdipta et al., 2020): mean over epochs of '
        'the probability of the given label'
      ),
      'variability_in variability_out': _HALF.or_missing(
        'its standard deviation over epochs'
      ),
      'correctness_in correctness_out': PROBABILITY.or_missing(
        'share of the epochs at which the given label is predicted'
      ),
      'aum_in aum_out': FLOAT.or_missing(
        'area under the margin (Pleiss et al., 2020): mean over epochs of the '
        "given label's logit minus the largest other one; low where the label "
        'is doubtful'
      ),
      'el2n_in el2n_out': Kind(float, 0, 2**0.5, text='0 to 1.41').or_missing(
        'EL2N (Paul et al., 2021): length of the vector of probabilities '
        'minus the one-hot label, at the first logged epoch that is at least '
        'a tenth of the last; high is hard'
      ),
    },
    text=(
      'What runs predict for the example after the logged epochs '
      '(`arrays/epochs.npy`), in evaluation mode, with `map.log_epochs`. A '
      'run that stopped early keeps its last predictions for the epochs that '
      'follow, since its weights no longer change. Columns come twice, as '
      'means over the IN runs (`_in`) and over the OUT runs (`_out`), missing '
      'without any.'
    ),
  ),
  Table(
    'dynamics_epochs',
    'group of examples and logged epoch',
    {
      'group': TEXT('`all`, `noisy` or `clean`'),
      'epoch': POSITIVE('logged epoch'),
      'examples': COUNT('in the group'),
      'memorisation': SIGNED.or_missing(
        'their mean counterfactual memorisation after that epoch'
      ),
      'se': SIZE.or_missing('its standard error'),
      'low high': FLOAT.or_missing(
        "its 95 % interval, Student's with K - 1 degrees of freedom"
      ),
      'in_accuracy out_accuracy': PROBABILITY.or_missing(
        'share of the pairs of an example and an IN (OUT) run in which the '
        'run predicts the given label'
      ),
      'memorised': PROBABILITY.or_missing(
        'share of the examples whose `memorised_epoch` has come'
      ),
    },
    text=(
      'Examples with fewer than two IN or OUT runs are left out. The standard '
      'error is over runs, which examples share.'
    ),
  ),
  Table(
    'single_run',
    'single run, and one with `run = -1` for their mean',
    {
      'run': _OR_MEAN('row in `arrays/`, or -1'),
      'examples': COUNT(
        'compared: those with two IN and two OUT runs among the others'
      ),
      'r2': _UP_TO_1.or_missing(
        '1 - squared error / squared deviation from the mean; 0 is what the '
        'mean alone reaches'
      ),
      'r2_low r2_high': _UP_TO_1.or_missing(
        '95 % bootstrap interval over examples, and over single runs for '
        'their mean'
      ),
      'r2_in r2_out': _UP_TO_1.or_missing(
        'among examples that the run was trained on, and among the others'
      ),
      'reliability': PROBABILITY.or_missing(
        "of the other runs' estimate: the most that `r2` can be expected to "
        'reach'
      ),
      'corrected': _UP_TO_1.or_missing(
        '`r2 / reliability`, at most 1: against what endless runs would give; '
        'missing if `reliability` is 0'
      ),
      'corrected_low corrected_high': _UP_TO_1.or_missing(
        'its interval; missing where some resample has no reliability'
      ),
      'equivalent_runs': SIZE.or_missing(
        'size of the map whose scores are as reliable as `corrected`'
      ),
    },
    text=(
      'How much of counterfactual memorisation one run tells. A regression '
      "predicts it from a run's history of the example, its final margin and "
      "logits, and the rarity of the example's words and label, fitted for "
      'members and non-members of the run apart. What is predicted comes from '
      'all *other* runs, for examples that the regression was not fitted on; '
      'near-duplicates are in one fold. To save runs with it, memorisation of '
      'some examples must be known.'
    ),
  ),
  Table(
    'ngrams',
    'training example and length of n-grams of words',
    {
      **_OF_EXAMPLE,
      'order': Kind(int, 1, 3)('words in an n-gram'),
      'rarity': Kind(float, 0, text='bits, from 0').or_missing(
        "mean over the text's n-grams of log2(texts / texts with it); missing "
        'for a shorter text'
      ),
      'overlap': PROBABILITY.or_missing(
        "share of the text's n-grams that another text has too"
      ),
    },
    text=(
      'How unusual a text is among the training texts. Words are runs of '
      'letters and digits; case does not matter; every n-gram of a text '
      'counts once.'
    ),
  ),
  Table(
    'covariates',
    'measure of a text and group of examples',
    {
      'measure': TEXT('`length` in tokens, `rarity` or `overlap`'),
      'order': Kind(int, 0, 3)('words in an n-gram; 0 for the length'),
      'group': TEXT('`all` examples, `clean` or `noisy` ones'),
      'spearman': SIGNED.or_missing(
        "Spearman's correlation with counterfactual memorisation; missing "
        'where all values are the same'
      ),
      'low high': SIGNED.or_missing(
        '95 % interval (Bonett & Wright, 2000), as if examples were independent'
      ),
      'examples': COUNT('that have both values'),
    },
    claim='a correlation other than 0',
  ),
  Table(
    'forecast',
    'quality that might be wanted',
    {
      'quantity': TEXT(
        '`half-width` of 95 % intervals of counterfactual memorisation, or '
        '`reliability` of the ranking'
      ),
      'share': PROBABILITY.or_missing(
        'of the examples whose half-widths are at most so; missing for the '
        'ranking'
      ),
      'runs': POSITIVE('runs of this map'),
      'value': SIZE.or_missing('what it has reached'),
      'wanted': SIZE('what might be wanted'),
      'needed': POSITIVE.or_missing(
        'how many runs that takes in all; missing if there are too few to tell'
      ),
    },
    text=(
      'How many runs the map would need, estimated from the map at hand '
      '([planning.md](planning.md)).'
    ),
  ),
  Table(
    'privacy',
    'attack, scope and false positive rate',
    {
      'attack': TEXT('`LiRA` or `RMIA`'),
      'scope': TEXT(
        '`pooled`: all targets and examples in one ROC; `by_target`: the mean '
        'over targets'
      ),
      'auc': PROBABILITY.or_missing('area under the ROC; 0.5 is chance'),
      'auc_low auc_high': PROBABILITY.or_missing(
        '95 % bootstrap interval over targets'
      ),
      'fpr': PROBABILITY(
        'false positive rate; 0.001 needs 10 000 non-members and is 0.01 '
        'otherwise'
      ),
      'tpr': PROBABILITY.or_missing(
        'true positive rate there; `fpr` is chance'
      ),
      'tpr_low tpr_high': PROBABILITY.or_missing('its interval'),
      'num_targets num_members num_non_members': COUNT('what was compared'),
    },
    text=(
      'How well an attacker tells which examples a run was trained on. Each '
      'run is the target in turn, and its own predictions are left out of '
      'what the attack is fitted on. LiRA is that of Carlini et al. (2022), '
      'online; RMIA that of Zarifzadeh et al. (2024).'
    ),
  ),
  Table(
    'privacy_curve',
    'point of the pooled ROC of an attack',
    {
      'attack': TEXT('`LiRA` or `RMIA`'),
      'fpr tpr': PROBABILITY('false and true positive rate'),
    },
    text='At most 302 points per attack, spaced for logarithmic axes.',
  ),
  Table(
    'detection',
    'comparison of a score on two groups of examples',
    {
      'score': TEXT(
        '`1 - generalisation` or `counterfactual memorisation`; the trivial '
        'baselines `1 - training memorisation`, which needs no run that did '
        'not see the example, and `rarity of the given label`'
      ),
      'baseline': BOOL('whether it is a trivial one'),
      'positives': TEXT(
        'group that should score higher: `noisy`, or `exception` (unchanged '
        'exceptions)'
      ),
      'negatives': TEXT(
        'group that should score lower: `clean`, or `rule` (unchanged '
        'rule-followers)'
      ),
      'within_class': BOOL(
        'computed within each given class and averaged, weighted by the '
        'number of positives; otherwise over all examples'
      ),
      'auroc': PROBABILITY.or_missing(
        'share of pairs in which the positive scores higher, ties half; 0.5 '
        'is chance'
      ),
      'auroc_low auroc_high': PROBABILITY.or_missing('its interval'),
      'average_precision': PROBABILITY.or_missing(
        'mean precision at the positives; chance is the share of positives'
      ),
      'ap_low ap_high': PROBABILITY.or_missing(
        'interval of the mean precision'
      ),
      'num_positive num_negative': COUNT('examples compared'),
      'num_excluded': COUNT(
        'left out: score missing, or class without the other group'
      ),
    },
    text=(
      'How well a score finds planted examples, or rows known to be wrong. '
      'Intervals are 95 % percentiles of 1000 bootstrap resamples of the '
      'examples.'
    ),
    note=(
      'The number within class is the one to trust. Uniform wrong labels '
      'flood the small classes, so the given label alone tells something.'
    ),
    claim='an AUROC above 0.5',
    baselines=True,
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
      **_VARIANT,
      'source': _OWN['source'],
      'seed': _OR_MEAN('of the model, or -1'),
      'mcog': _CENTRE.or_missing(
        'Σ l · raw[l] / Σ raw[l]; higher is deeper, (L + 1) / 2 is a flat '
        'profile'
      ),
      'attainable_low attainable_high': _CENTRE(
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
    'mcog_summary',
    'technique, variant and source',
    {
      **_VARIANT,
      'source': _OWN['source'],
      'seeds': COUNT('number of seeds that have a centre'),
      'mcog': _CENTRE.or_missing('mean over seeds of `mcog`'),
      'low high': FLOAT.or_missing(
        "its 95 % interval over seeds, Student's; missing with fewer than "
        'three seeds'
      ),
    },
    text='The mean of `mcog` over seeds; that of the mean profile is in `mcog` '
    'itself.',
    claim='whether the depth of main models differs from that of a flat '
    'profile, over seeds',
  ),
  Table(
    'control',
    'control model, technique and variant',
    {
      'technique': TEXT('its name'),
      'variant': TEXT('of the technique; empty for its plain form'),
      'seed': INT('of the models'),
      'setup': TEXT(
        '`pair` where only those of `control.pairs` could learn, `graded` '
        'where all layers learn at unequal rates'
      ),
      'layers': TEXT(
        'those that could learn, as `1+2`; `rising` or `falling` rates for '
        '`graded`'
      ),
      'first last': LAYER('lowest and highest of them'),
      'top1_in_pair': PROBABILITY.or_missing(
        'whether the heaviest layer is one of them, 0 or 1; ties are broken '
        'at random with a fixed seed; missing for `graded`'
      ),
      'top2_in_pair': PROBABILITY.or_missing(
        'share of the two heaviest layers that are: 0, 0.5 or 1'
      ),
      'rank_correlation': SIGNED.or_missing(
        "Spearman correlation of the weights with the layers' rates; only for "
        '`graded`, 0 for a flat profile'
      ),
    },
    text=(
      'In a control model only some layers could learn the wrong labels from '
      'the main task; an auxiliary task trains all layers.'
    ),
  ),
  Table(
    'control_summary',
    'technique, variant and setup',
    {
      'technique': TEXT('its name'),
      'variant': TEXT('of the technique; empty for its plain form'),
      'setup': TEXT('as in `control`'),
      'baseline': BOOL(
        'whether it is a trivial baseline, which a technique must beat'
      ),
      'accuracy_1': PROBABILITY.or_missing('mean of `top1_in_pair`'),
      'accuracy_1_low accuracy_1_high': PROBABILITY.or_missing(
        '95 % Wilson interval on the effective number of models, clustered by '
        'seed, with the quantile of t for so many seeds '
        '([coverage](results/coverage_pairs.md#intervals-of-few-seeds)); '
        'where all agree, every seed counts as one observation. Missing with '
        'fewer than three seeds, which are too few to tell'
      ),
      'accuracy_2': PROBABILITY.or_missing('mean of `top2_in_pair`'),
      'accuracy_2_low accuracy_2_high': PROBABILITY.or_missing(
        'interval of that, formed in the same way'
      ),
      'rank_correlation': SIGNED.or_missing('mean of `rank_correlation`'),
      'rank_correlation_low rank_correlation_high': FLOAT.or_missing(
        "95 % interval of that, Student's over seeds"
      ),
      'chance': PROBABILITY(
        'accuracy of a guess: the mean share of the L layers that could '
        'learn, 2 / L for pairs; 0 for `graded`'
      ),
      'num_sources num_seeds': POSITIVE(
        'number of pairs or gradings, and of seeds'
      ),
    },
    text='`control` over pairs and seeds.',
    claim='`accuracy_1` above `chance`, or on `rank_correlation` above 0',
    baselines=True,
  ),
  Table(
    'correlations',
    'pair of techniques',
    {
      'quantity': TEXT(
        '`layers`: weights over seeds and layers; `mcog`: centres over seeds'
      ),
      'source': TEXT('as in `windows`'),
      'technique_a technique_b': TEXT('the two'),
      'pearson': SIGNED.or_missing(
        'correlation; missing for fewer than three points or a flat profile'
      ),
      'low high': SIGNED.or_missing(
        "Fisher's 95 % interval as if the points were independent, which "
        'layers of one model are not: it is too narrow'
      ),
      'num_points': COUNT('number of points'),
    },
    text=(
      'How far techniques agree. Each has its default variant, on the models '
      'named in `source`.'
    ),
    claim=(
      'a correlation other than 0: of `mcog`; that of `layers` cannot be '
      'told, since the layers of one model are not independent'
    ),
  ),
  Table(
    'probes',
    'probe',
    {
      **_OWN,
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
      **_OWN,
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
      **_OWN,
      'event': TEXT(
        '`crossing`: noisy examples come closer to the given class; '
        '`initiation`: classes stay apart from here on; `memorisation`: '
        'probes read given labels of noisy examples better than original '
        'ones; `generalisation_90`: probes reach 90 % of their best F1 on '
        'clean examples'
      ),
      'setup': TEXT('as in `centroids`; empty for probes'),
      'seed': _OR_MEAN('of the models, or -1'),
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
      **_OWN,
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
      **_OWN,
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
  Table(
    'injection',
    'localiser and kind of known place',
    {
      'planted': TEXT('`layers` or `word`'),
      'localiser variant': TEXT(
        'technique as in `layers`; what pairs of runs tell of noisy examples '
        '(`layer-wise memorisation`, `activation patching` of attention and '
        'MLP, `heads` and `neurons` zeroed to first order); or the map over '
        'the input'
      ),
      'baseline': BOOL('whether it is a trivial one to compare with'),
      'cases': POSITIVE('control models or pairs, or examples'),
      'recall': PROBABILITY(
        'share of the planted layers among as many layers that score highest; '
        'share of the examples whose planted word is on top'
      ),
      'low high': PROBABILITY.or_missing(
        '95 % interval: of `layers` clustered by seed or pair as in '
        '`control_summary`, missing with fewer than three of them, of `word` '
        'over examples as if they were independent, though they share runs'
      ),
      'chance': PROBABILITY('what a random order would reach'),
    },
    text=(
      'How often localisers find memory that was put in a known place: the '
      'layers that could learn wrong labels in control models, and, in the '
      'embedded task, the word that alone decides the label of an exception '
      '(of correctly labelled exceptions that input maps look at).'
    ),
    claim='`recall` above `chance`',
    baselines=True,
  ),
  Table(
    'pairs_by_example',
    'training example',
    {
      **_OF_EXAMPLE,
      'training_memorisation_pairs generalisation_pairs': PROBABILITY(
        'mean probability of the given label by the IN and by the OUT run'
      ),
      'cm_pairs': SIGNED(
        'their difference: counterfactual memorisation over the pairs'
      ),
      'cm_pairs_se': SIZE.or_missing(
        'its standard error over pairs, the plain one; missing with one pair'
      ),
      'cm_pairs_low cm_pairs_high': SIGNED.or_missing(
        "95 % interval: Student's t after adding a quarter of a pair at -1 "
        'and one at 1, so it is centred slightly closer to 0 '
        '([coverage](results/coverage_pairs.md)); missing with one pair'
      ),
      'depth': _WITH_HEAD.or_missing(
        'layer up to which half of it lies: the first whose hybrid, with this '
        'layer and those below from IN, is at least half way; L + 1 is the '
        'head; missing where `cm_pairs` is not above 0'
      ),
      'pairs': POSITIVE('pairs of which neither run diverged'),
    },
    text=(
      'Of studies with `map.pairs`, over pairs of runs that were trained on '
      'complementary halves with the same head, order and dropout. Of each '
      'pair one run saw the example (IN) and one did not (OUT). What the '
      'numbers mean is in [single_examples.md](single_examples.md).'
    ),
    note=(
      'Runs of pairs are map runs, too, so that they are part of '
      '`examples.parquet`.'
    ),
  ),
  Table(
    'layers_by_example',
    'training example and layer',
    {
      **_OF_EXAMPLE,
      'layer': _EVERYWHERE(
        'layer, or first one of `localise.layerwise.span` neighbours'
      ),
      'last_layer': _EVERYWHERE('last of these'),
      'share': SIGNED(
        "Shapley value of the layer, mean over pairs; an example's shares sum "
        'to its `cm_pairs`'
      ),
      'share_se': SIZE.or_missing(
        'standard error over pairs; it holds the error of sampled orders '
        'where not all hybrids were run'
      ),
      'bottom_up': PROBABILITY(
        'mean probability of the given label by hybrids with the layers up to '
        'this one from IN and the others from OUT'
      ),
      'bottom_up_se': SIZE.or_missing('its standard error'),
      'top_down': PROBABILITY(
        'as `bottom_up`, with this layer and those above it, the head '
        'included, from IN'
      ),
      'top_down_se': SIZE.or_missing('its standard error'),
    },
    text=(
      'Layer 0 is the embeddings, which are frozen and hold nothing; L + 1 is '
      'the head, with the final norm.'
    ),
  ),
  Table(
    'layers_by_group',
    'source, group of examples and layer',
    {
      **_GROUP,
      'examples': POSITIVE('in the group'),
      **_PLAYER,
      'share': SIGNED('mean share'),
      'share_se': SIZE.or_missing('its plain standard error over pairs'),
      'low high': SIGNED.or_missing(
        '95 % interval over pairs: as `cm_pairs_low`, with the added weight '
        "divided by the square of `examples`, so that it is Student's t of "
        'all but the smallest groups'
      ),
    },
    text=(
      'Mean shares of groups of examples, from the map (`source` is `main`) '
      'and from control models with `control.map_pairs`.'
    ),
  ),
  Table(
    'layers_by_pair',
    'source, group of examples, pair and layer',
    {
      **_GROUP,
      'pair': COUNT('number of the pair'),
      **_PLAYER,
      'share': SIGNED("mean share over the group's examples"),
      'distance': SIZE.or_missing(
        "Euclidean, between the parameters of the pair's runs, summed over "
        'these layers; missing for the head'
      ),
    },
    text='The means of each single pair, for intervals of your own.',
  ),
  Table(
    'hybrids',
    'source and number of exchanged players',
    {
      'source': TEXT('as in `layers_by_group`'),
      'players': _EVERYWHERE(
        'how many layers (or groups of them, and the head) are from the other '
        'run'
      ),
      'accuracy': PROBABILITY('mean over the hybrids and pairs'),
      'accuracy_se': SIZE.or_missing('its standard error over pairs'),
      'low high': PROBABILITY.or_missing(
        '95 % interval over pairs, as in `layers_by_group`, for the range '
        'from 0 to 1 and the number of validation examples'
      ),
    },
    text=(
      'Whether hybrids are working models: accuracy on at most '
      '`localise.layerwise.held_out` validation examples.'
    ),
  ),
  Table(
    'control_pairs',
    'control and measure',
    {
      'source': TEXT('the layers that could learn'),
      'measure': TEXT(
        '`share of noisy examples` (layer-wise memorisation, head included in '
        "the whole) or `parameter distance` between the two runs' blocks"
      ),
      'inside': Kind(float, text='about 0 to 1').or_missing(
        'the part inside, ratio of means over pairs'
      ),
      'low high': FLOAT.or_missing(
        "95 % interval over pairs: Student's t, as a ratio of means has no "
        'bounds; missing for a single pair'
      ),
      'layers_inside': PROBABILITY(
        'what a profile without preference has inside'
      ),
      'pairs': POSITIVE('number of pairs'),
    },
    text=(
      'How much lies in the layers that could learn the labels, of control '
      'models with pairs.'
    ),
    claim='`inside` above `layers_inside`',
    baselines=True,
  ),
  Table(
    'layer_agreement',
    'source and technique',
    {
      'source technique variant': TEXT('as in `layers`'),
      'spearman': SIGNED.or_missing(
        'rank correlation, over layers, of mean weights and mean shares; '
        'missing where either is constant'
      ),
      'low high': SIGNED.or_missing(
        '95 % interval by resampling pairs and seeds, too narrow for few of '
        'them; missing for a single pair or seed'
      ),
      'pairs seeds': POSITIVE('how many there were'),
    },
    text='Techniques beside the layer-wise memorisation of noisy examples.',
    claim='a correlation above 0; needs five pairs and five seeds',
    baselines=True,
  ),
  Table(
    'tokens_by_example',
    'token of an example that input maps look at',
    {
      **_OF_EXAMPLE,
      'position': COUNT('place of the token in the example'),
      'token': TEXT('the part of the text that it stands for'),
      'word': COUNT('number of its word'),
      'unit': COUNT(
        'number of what is hidden together: tokens, words, or spans of them '
        'in long texts'
      ),
      'contrast': _DIFFERENCE(
        '`loss_in - loss_out`, mean over pairs; of the whole unit; high is '
        'memorised'
      ),
      'contrast_se': SIZE.or_missing('its standard error over pairs'),
      'loss_in loss_out': SIGNED(
        'probability of the given label that the IN and the OUT run lose when '
        'the unit is hidden; where tokens are taken out, a text of which '
        'nothing would be left keeps its last one'
      ),
      'integrated': FLOAT.or_missing(
        'integrated gradients of the token, IN minus OUT; their sum is the '
        'memorisation beyond that of the text without any words; missing with '
        '`localise.inputs.steps=0`'
      ),
      'integrated_se': SIZE.or_missing('its standard error over pairs'),
    },
    text=(
      'Of the `localise.inputs.examples` most memorised examples, special '
      'tokens left out.'
    ),
  ),
  Table(
    'patching',
    'example, layer, site and unit',
    {
      **_OF_EXAMPLE,
      'layer': LAYER('layer'),
      'site': TEXT(
        '`stream` (the residual stream after the block), `attention` and '
        '`mlp` (outputs), `head` (of attention, before the output projection) '
        'or `position` (the stream at one position)'
      ),
      'unit': _OR_MEAN('head from 1, position from 0; -1 for all of the site'),
      'effect': SIGNED(
        'probability of the given label that the OUT run gains, mean over pairs'
      ),
      'effect_se': SIZE.or_missing('its standard error'),
      'attributed': FLOAT(
        'first-order estimate of the effect (attribution patching)'
      ),
      'attributed_se': SIZE.or_missing('standard error of that'),
    },
    text=(
      'Activation patching of the `localise.patching.examples` most memorised '
      'examples: activations of the IN run in the OUT run.'
    ),
    note=(
      '`stream` at layer l is the hybrid with layers 1 to l from IN: its '
      'effect is `bottom_up` minus `generalisation_pairs`.'
    ),
  ),
  Table(
    'patching_summary',
    'site, layer and unit',
    {
      'site': TEXT('as in `patching`, without positions'),
      'layer': LAYER('layer'),
      'unit': _OR_MEAN('head from 1; -1 for all of the site'),
      'recovery': FLOAT.or_missing(
        'mean effect over mean memorisation of these examples; 1 is all of it'
      ),
      'low high': FLOAT.or_missing(
        "95 % interval of that over pairs (Student's t)"
      ),
      'attributed attributed_low attributed_high': FLOAT.or_missing(
        'the same of the first-order estimate'
      ),
      'examples pairs': POSITIVE('how many'),
    },
  ),
  Table(
    'units_by_example',
    'example and unit',
    {
      **_OF_EXAMPLE,
      'kind': TEXT('`head` or `neuron`'),
      'layer unit': POSITIVE('layer and number of the unit'),
      'contrast': FLOAT('`loss_in - loss_out`, mean over pairs'),
      'contrast_se': SIZE.or_missing('its standard error'),
      'loss_in loss_out': FLOAT(
        "first-order loss of the given label's probability when the unit is "
        'zeroed (activation times gradient, summed over positions), by IN and '
        'by OUT run'
      ),
    },
    text=(
      'The 20 attention heads and 20 MLP neurons with the highest contrast, '
      'for the `localise.units.examples` most memorised examples.'
    ),
  ),
  Table(
    'unit_deletion',
    'kind, ranking and number of deleted units',
    {
      'kind': TEXT('`heads` or `neurons`'),
      'ranking': TEXT('`contrast`, `loss`, `random`, or `learnt` by a mask'),
      'deleted': COUNT('how many are zeroed'),
      'examples': POSITIVE('how many'),
      'value_in value_after value_out': PROBABILITY(
        'mean probability of the given label by the IN run, by the IN run '
        'without the units, by the OUT run'
      ),
      'removed': FLOAT.or_missing(
        'part of the memorisation that is gone, ratio of means; 1 is all of it'
      ),
      'removed_low removed_high': FLOAT.or_missing(
        "95 % interval of that over pairs (Student's t)"
      ),
      'distance_before distance': SIZE.or_missing(
        "mean distance from the OUT runs' distribution, in its standard "
        'deviations of log p / (1 - p), before and after; an OUT run itself '
        'has about 0.8'
      ),
      'others_before others': PROBABILITY.or_missing(
        'mean probability of the given label of the other memorised examples '
        'that the run saw'
      ),
      'accuracy_before accuracy': PROBABILITY.or_missing(
        'on at most `localise.units.held_out` validation examples'
      ),
      'pairs': POSITIVE('how many'),
    },
    text=(
      'What is left when the top units of the IN run are zeroed, ranked in '
      'the same run.'
    ),
    note='`loss` and `random` are the trivial baselines.',
    claim='`removed` above 0',
    baselines=True,
  ),
  Table(
    'deletion',
    'ranking and number of hidden units',
    {
      'ranking': TEXT(
        '`map` (by `contrast`), `loss` (by `loss_in`), `random`, or `nothing`'
      ),
      'deleted': COUNT('units hidden in each text'),
      'examples': POSITIVE('how many'),
      'memorisation': SIGNED('mean over examples'),
      'memorisation_se': SIZE.or_missing('its standard error over pairs'),
      'low high': SIGNED.or_missing(
        '95 % interval over pairs: as `cm_pairs_low`, with the added weight '
        'divided by the square of `examples`'
      ),
      'less_than_random': _DIFFERENCE(
        'how much lower it is than with as many random units'
      ),
      'less_low less_high': _DIFFERENCE.or_missing(
        'interval of that over pairs'
      ),
    },
    text=(
      'What is left of the memorisation of these examples when several units '
      'are hidden. Units are ranked on other pairs than those that are '
      'measured.'
    ),
    note='`loss` and `random` are the trivial baselines.',
    claim='memorisation that is lost, of the ranking `map`',
    baselines=True,
  ),
  Table(
    'variants',
    'perturbation of the texts',
    {
      'kind': TEXT(
        '`lower`, `upper`, `typos`, `shuffle` (order of words), `token '
        'dropout`, or `paraphrase` (with `task.paraphrase`)'
      ),
      'strength': PROBABILITY(
        'share of the words, or tokens, that are changed'
      ),
      'examples': POSITIVE('how many'),
      'value_in value_out': PROBABILITY(
        'mean probability of the given label by IN and OUT runs'
      ),
      'memorisation': SIGNED('their difference'),
      'memorisation_se': SIZE.or_missing('its standard error over pairs'),
      'left': FLOAT.or_missing(
        'it, over that of the original texts, ratio of means'
      ),
      'left_low left_high': FLOAT.or_missing(
        "95 % interval of that over pairs (Student's t)"
      ),
    },
    text='The examples of `tokens_by_example` with perturbed texts.',
  ),
)
TABLES: dict[str, Table] = {table.name: table for table in _ALL}

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


def known() -> dict[str, Table]:
  """Tables by name: those of this file, and those that techniques brought.

  Raises:
    TableError: a technique's table has the name of another one.
  """
  found = dict(TABLES)
  for technique in TECHNIQUES.values():
    for own in technique.tables:
      table = dataclasses.replace(own, columns={**_OWN, **own.columns})
      if found.setdefault(own.name, table) != table:
        raise TableError(
          f'The technique {technique.name} brings a table {own.name}, but '
          'there is another one of that name.'
        )
  return found


def find(name: str) -> Table:
  """The table of a name.

  Raises:
    TableError: there is none.
  """
  tables = known()
  if name not in tables:
    raise TableError(
      f'There is no table {name}: declare it in memloc_jax/study/tables.py, or '
      'with register_technique(..., tables=...).'
    )
  return tables[name]


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
