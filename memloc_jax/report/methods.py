"""How the numbers came about, for a reader who has only the page."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

_EXAMPLES = (
  'Training memorisation of an example is the mean softmax probability of '
  'its given label over the runs whose training subset held it, '
  'generalisation the mean over the other runs, and counterfactual '
  'memorisation their difference. Intervals are Welch intervals for one '
  'example at a time, after adding a pseudo-run at 0 and one at 1 to each '
  'side; the two runs of a pair, on complementary halves, are not independent, '
  'and their covariance is counted. Examples share runs, so their errors are '
  'correlated. Judged on 2 100 '
  'runs of another study, they held the truth in 98.8, 97.1 and 96.3 % of its '
  'examples at 30, 100 and 400 runs.'
)
_DETECTION = (
  ' Within given class, a comparison is made among examples of the same given '
  'label and averaged with the number of positives as weights, because '
  'uniform label noise makes rare labels suspicious by themselves.'
)
_DYNAMICS = (
  'Predictions of all runs were logged after some epochs, in evaluation mode; '
  'a run that stopped early keeps its last ones. A mean over examples has a '
  'standard error over runs, since examples share them. Memorisation is '
  'predicted from one run by ridge regression on splines of its learning '
  'history, final margins and the rarity of words and label, for members and '
  'non-members of the run apart, out of fold, against the estimate of all '
  'other runs; near-duplicates are in one fold.'
)
_LAYERS = (
  'All techniques look at pairs of models of one seed (same head, order of '
  'batches and dropout), one trained on noisy and one on original labels, '
  'and end in a weight per layer. Where windows of layers are edited, the '
  'error on the given labels of noisy examples is averaged over the windows '
  'of one length that contain a layer (heat map), then over lengths, and '
  'divided by its sum. M-CoG is the centre of gravity of the weights (Dankers '
  '& Titov, 2024).'
)
_CONTROL = (
  'In control models only chosen layers learn the main task and its wrong '
  'labels, while an auxiliary task with a head and optimiser of its own '
  'trains every layer. Accuracy@1 is the share of models whose heaviest layer '
  "is one of them; its interval is Wilson's on the effective number of "
  'models, clustered by seed, with the quantile of t for so many seeds; fewer '
  'than three have none. Chance is the share of layers that are chosen.'
)
_PAIRS = (
  'The two runs of a pair were trained on complementary halves of the examples '
  'with the same head, order of batches and dropout. The share of a layer in '
  "an example's memorisation is its Shapley value in the game whose coalitions "
  'are hybrids: layers of the run that was trained on the example in place of '
  "its twin's; their value is the probability of the given label. The "
  'classification head, with the final norm, is a player. Shares sum to the '
  'difference of the two runs, and errors are over pairs. Intervals of a mean '
  "over pairs are Student's after adding a quarter of a pair at either end of "
  'the range, since values are bounded and skewed; those of a ratio of means '
  "are Student's."
)
_TEXTS = (
  'The contrast of a token is the probability of the given label that the run '
  'trained on the example loses when the token is hidden, minus what its twin '
  'loses. It was measured for the most memorised examples; in the deletion '
  'test, tokens are ranked on other pairs than those that measure.'
)
_VERDICTS = (
  'A verdict compares a value with a reference: supported or contradicted if '
  'its interval excludes the reference, equivalent if the interval includes it '
  'and lies within a difference fixed before (δ), and otherwise it cannot be '
  'told. All comparisons of a table, those with trivial baselines included, '
  'share a family-wise error of 5 % (Holm, 1979). A value is better than the '
  'baseline if the intervals of its paired differences from all trivial '
  'baselines are above 0.'
)
# Of each technique, with the settings to fill in.
_TECHNIQUES = {
  'swapping': (
    'Layer swapping puts the blocks of the clean model into its noisy twin, '
    'for every contiguous window of layers; embeddings, final norm and head '
    'stay.'
  ),
  'retraining': (
    'Layer retraining resets a window of the noisy model to pretrained blocks '
    'and trains it, with the head, for {retrain[num_epochs]} epochs at '
    '{retrain[learning_rate]:g} (batch {retrain[batch_size]}) on clean '
    'examples; for the profile, not in the heat map, its error is divided by '
    'that of retraining all layers.'
  ),
  'rewinding': (
    'Layer rewinding sets a window back to its state after an earlier epoch; '
    'epoch 0 is the pretrained state.'
  ),
  'ablation': (
    'Layer ablation leaves out the blocks of a window, or replaces their '
    'attention or MLP outputs; its profile, not its heat map, is what noisy '
    'examples lose beyond clean ones of the same margin. Its centre of gravity '
    'is not calibrated: long windows may lose less than short ones, so no '
    'narrower range than 1 to L is known.'
  ),
  'gradients': (
    'Forgetting gradients are mean gradients of the logit of '
    'the given label at the first checkpoint that fits the noisy labels: L1 '
    'norm per layer of noisy minus clean, divided by that of a model whose '
    'blocks were frozen.'
  ),
  'accounting': (
    'Gradient accounting takes the share of the norm of the mean loss '
    'gradient of noisy examples that each layer has (Maini et al., 2023).'
  ),
  'probing': (
    'Probing trains {probe[seeds]} classifiers a layer (two hidden layers of '
    '{probe[hidden]}, {probe[num_epochs]} epochs) to tell noisy from clean '
    "examples; a layer's weight is how much F1 rises there; layer 1 "
    'compares with layer 1 of the frozen reference.'
  ),
  'centroids': (
    'Centroid analysis projects hidden states of noisy examples on the line '
    'between the centroids of their given and original class.'
  ),
  'difference_norm': (
    'Difference norm, a trivial baseline, is the distance between the '
    'parameters of a block in the noisy and in the clean model.'
  ),
  'pretrained_distance': (
    'Pretrained distance, a trivial baseline, is the distance of a block of '
    'the noisy model from its pretrained state.'
  ),
  'constant': 'Constant, a trivial baseline, gives all layers the same weight.',
}


def methods(
  tables: Mapping[str, pd.DataFrame], config: Mapping[str, Any]
) -> list[str]:
  """Paragraphs on what the tables hold.

  Args:
    tables: by name.
    config: the study's configuration, nested; without `localise`, techniques
      whose description needs settings are left out.
  """
  paragraphs = []
  model = config.get('model', {})
  if model.get('keep_layers'):
    paragraphs.append(
      f'Only the lowest {model["keep_layers"]} layers of the model were kept.'
    )
  if model.get('start') == 'random':
    paragraphs.append(
      'Blocks and final norm of the model were drawn at random, once for all '
      'runs; where something is set back to the pretrained state, that is what '
      'is meant. Embeddings are pretrained, and stay as they are.'
    )
  if len(tables['examples']):
    paragraphs.append(_EXAMPLES + _DETECTION * bool(len(tables['detection'])))
  if len(tables['dynamics_epochs']):
    paragraphs.append(_DYNAMICS)
  if len(tables['layers_by_example']):
    paragraphs.append(_PAIRS)
  if len(tables['tokens_by_example']):
    paragraphs.append(_TEXTS)
  present = {
    technique
    for name in ('windows', 'layers', 'centroids')
    if len(tables[name])
    for technique in tables[name]['technique']
  }
  if present:
    paragraphs.append(_LAYERS)
  settings = config.get('localise', {})
  for name, text in _TECHNIQUES.items():
    if name in present and (settings or '{' not in text):
      paragraphs.append(text.format(**settings))
  if len(tables['control_summary']):
    paragraphs.append(_CONTROL)
  if any('verdict' in table for table in tables.values()):
    paragraphs.append(_VERDICTS)
  return paragraphs
