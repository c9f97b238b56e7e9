"""Columns of the tables on where single examples are memorised."""

from memloc_jax.estimators import verdicts

SINGLE_EXAMPLES: dict[str, tuple[str, ...]] = {
  # Over pairs of runs on complementary halves: one row an example. `depth` is
  # the layer up to which half of its memorisation lies.
  'pairs_by_example': (
    'index',
    'training_memorisation_pairs',
    'generalisation_pairs',
    'cm_pairs',
    'cm_pairs_se',
    'cm_pairs_low',
    'cm_pairs_high',
    'depth',
    'pairs',
  ),
  # One row an example and layer, or group of them: 0 is the embeddings, L + 1
  # the head. An example's shares sum to its `cm_pairs`.
  'layers_by_example': (
    'index',
    'layer',
    'last_layer',
    'share',
    'share_se',
    'bottom_up',
    'bottom_up_se',
    'top_down',
    'top_down_se',
  ),
  # Mean shares of groups of examples, with 95 % intervals over pairs.
  'layers_by_group': (
    'source',
    'group',
    'examples',
    'layer',
    'last_layer',
    'share',
    'share_se',
    'low',
    'high',
  ),
  # The same of every single pair.
  'layers_by_pair': (
    'source',
    'group',
    'pair',
    'layer',
    'last_layer',
    'share',
    'distance',
  ),
  # Accuracy on validation examples of hybrids, by how many players (groups of
  # layers, and the head) are from the first run of a pair.
  'hybrids': ('source', 'players', 'accuracy', 'accuracy_se', 'low', 'high'),
  # What part of a profile lies in the layers that could learn the labels.
  'control_pairs': (
    'source',
    'measure',
    'inside',
    'low',
    'high',
    'layers_inside',
    'pairs',
    *verdicts.COLUMNS,
  ),
  # How often localisers find memory that was put in a known place.
  'injection': (
    'planted',
    'localiser',
    'variant',
    'baseline',
    'cases',
    'recall',
    'low',
    'high',
    'chance',
    *verdicts.COLUMNS,
  ),
  # One row a token of the examples that input maps look at: what hiding its
  # unit costs IN runs more than OUT runs.
  'tokens_by_example': (
    'index',
    'position',
    'token',
    'word',
    'unit',
    'contrast',
    'contrast_se',
    'loss_in',
    'loss_out',
    'integrated',
    'integrated_se',
  ),
  # Activation patching: one row an example, layer and site; `unit` is a head
  # from 1, a position from 0, or -1 for all of the site.
  'patching': (
    'index',
    'layer',
    'site',
    'unit',
    'effect',
    'effect_se',
    'attributed',
    'attributed_se',
  ),
  # The effects of all examples over their memorisation, positions left out.
  'patching_summary': (
    'site',
    'layer',
    'unit',
    'recovery',
    'low',
    'high',
    'attributed',
    'attributed_low',
    'attributed_high',
    'examples',
    'pairs',
  ),
  # Heads and neurons with the highest scores: one row an example and unit.
  'units_by_example': (
    'index',
    'kind',
    'layer',
    'unit',
    'contrast',
    'contrast_se',
    'loss_in',
    'loss_out',
  ),
  # What is left when top units of the run that saw an example are zeroed.
  'unit_deletion': (
    'kind',
    'ranking',
    'deleted',
    'examples',
    'value_in',
    'value_after',
    'value_out',
    'removed',
    'removed_low',
    'removed_high',
    'distance_before',
    'distance',
    'others_before',
    'others',
    'accuracy_before',
    'accuracy',
    'pairs',
    *verdicts.COLUMNS,
  ),
  # Memorisation that is left when the top units of each example are hidden.
  'deletion': (
    'ranking',
    'deleted',
    'examples',
    'memorisation',
    'memorisation_se',
    'low',
    'high',
    'less_than_random',
    'less_low',
    'less_high',
    *verdicts.COLUMNS,
  ),
  # Memorisation of perturbed texts, all examples together.
  'variants': (
    'kind',
    'strength',
    'examples',
    'value_in',
    'value_out',
    'memorisation',
    'memorisation_se',
    'left',
    'left_low',
    'left_high',
  ),
  # The same of each example.
  'variants_by_example': (
    'index',
    'kind',
    'strength',
    'memorisation',
    'memorisation_se',
  ),
  # Spearman correlation over layers of the mean share of noisy examples with
  # a technique's mean weights, intervals by resampling pairs and seeds.
  'layer_agreement': (
    'source',
    'technique',
    'variant',
    'spearman',
    'low',
    'high',
    'pairs',
    'seeds',
    *verdicts.COLUMNS,
  ),
}
