"""Which values the settings of a study may have."""

import functools
import itertools
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from memloc_jax.ensemble import membership
from memloc_jax.ensemble.placement import PLACEMENTS
from memloc_jax.errors import InputError, shown
from memloc_jax.localisation import ablation
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.tasks import registry, sources

if TYPE_CHECKING:
  from memloc_jax.study.config import MapConfig, StudyConfig

# Above these, arrays would fill any memory before a plan could say so.
_MOST_EPOCHS, _MOST_RUNS, _MOST_DRAWS = 10**5, 10**5, 10**3
_LARGEST_BATCH, _WIDEST, _DEEPEST = 2**16, 2**16, 10**3
# Settings of `model` that name folders of models.
_GIVEN = ('noisy', 'clean', 'noisy_memorised', 'clean_memorised', 'frozen')
_LONGEST_NAME = 255  # of a file or folder, in bytes


def check(study: 'StudyConfig') -> None:
  """Checks what types alone do not say.

  Raises:
    InputError: naming the flag and what it may be.
  """
  train, map_, control = study.train, study.map, study.control
  layerwise, inputs = study.localise.layerwise, study.localise.inputs
  patching, units = study.localise.patching, study.localise.units
  probe, retrain = study.localise.probe, study.localise.retrain
  variants = study.localise.ablation.variants
  task, tasks = study.task, (*registry.task_names(), registry.OWN)
  seeds = 'an integer from 0 to 2**31 - 1'
  checks = (
    *(
      (
        name,
        not sources.is_unknown(source),
        'hub:, hub:<id>, tfds:, files:<path> or embedded:',
      )
      for name, source in (
        ('task.source', task.source),
        ('control.auxiliary_source', control.auxiliary_source),
      )
    ),
    *(
      (name, all(map(_is_path, places)), 'a path or name that there can be')
      for name, places in (
        ('task.source', [task.source]),
        ('task.files', [task.files]),
        ('control.auxiliary_source', [control.auxiliary_source]),
        ('model.source', [study.model.source]),
        *((f'model.{name}', getattr(study.model, name)) for name in _GIVEN),
        ('localise.retrain.held_out', [retrain.held_out]),
        ('localise.gradient.clean', study.localise.gradient.clean),
        ('engine.cache', [study.engine.cache]),
        ('grid.models', study.grid.models),
      )
    ),
    ('model.source', bool(study.model.source), 'a folder or a hub id'),
    ('engine.cache', bool(study.engine.cache), 'a folder'),
    (
      'model.sha256',
      re.fullmatch('([0-9a-f]{64})?', study.model.sha256) is not None,
      "64 hexadecimal digits in small letters, or ''",
    ),
    *(
      (f'task.{name}', getattr(task, name) >= least, f'at least {least}')
      for name, least in (
        ('limit', 0),
        ('pool_limit', 0),
        ('max_length', 1),
      )
    ),
    ('task.noise', 0 <= task.noise < 1, 'in [0, 1)'),
    (
      'task.noise_draws',
      0 <= task.noise_draws <= _MOST_DRAWS
      and (task.noise_draws >= 1 or not task.noise),
      f'at least 1 unless task.noise is 0, and at most {_MOST_DRAWS}',
    ),
    ('task.seed', task.seed >= 0, seeds),
    (
      'task.buckets',
      all(a < b for a, b in itertools.pairwise((0, *task.buckets))),
      'increasing numbers from 1',
    ),
    (
      'task.near_duplicates',
      task.near_duplicates == 0 or 0.5 <= task.near_duplicates <= 1,
      '0, or from 0.5 to 1',
    ),
    *(
      (
        f'{name}.num_epochs',
        1 <= group.num_epochs <= _MOST_EPOCHS,
        f'from 1 to {_MOST_EPOCHS}',
      )
      for name, group in (
        ('train', train),
        ('map', map_),
        ('control', control),
        ('localise.retrain', retrain),
        ('localise.probe', probe),
      )
    ),
    *(
      (
        f'{name}.batch_size',
        1 <= group.batch_size <= _LARGEST_BATCH,
        f'from 1 to {_LARGEST_BATCH}',
      )
      for name, group in (
        ('train', train),
        ('localise', study.localise),
        ('localise.retrain', retrain),
        ('localise.probe', probe),
        ('localise.patching', patching),
      )
    ),
    ('train.learning_rate', train.learning_rate > 0, 'above 0'),
    ('train.warmup', 0 <= train.warmup < 1, 'in [0, 1)'),
    ('train.clip_norm', train.clip_norm > 0, 'above 0'),
    ('train.weight_decay', train.weight_decay >= 0, 'at least 0'),
    ('train.dropout', train.dropout < 1, 'below 1'),
    ('train.evaluate_every', train.evaluate_every >= 0, 'at least 0'),
    *(
      (
        name,
        all(0 <= s < 2**31 for s in seeds) and len(set(seeds)) == len(seeds),
        'different integers from 0 to 2**31 - 1',
      )
      for name, seeds in (
        ('train.seeds', train.seeds),
        ('control.seeds', control.seeds),
        ('control.graded_seeds', control.graded_seeds),
      )
    ),
    (
      'map.num_runs',
      map_.num_runs == 0 or 2 <= map_.num_runs <= _MOST_RUNS,
      f'0, or from 2 to {_MOST_RUNS}',
    ),
    (
      'map.added',
      all(2 <= size <= _MOST_RUNS for size in map_.added)
      and (map_.num_runs or map_.pairs or not map_.added),
      'sizes of 2 or more, of a study with map runs',
    ),
    ('map.ratio', 0 < map_.ratio < 1, 'between 0 and 1'),
    (
      'map.design',
      map_.design in membership.DESIGNS,
      f'one of {", ".join(sorted(membership.DESIGNS))}',
    ),
    (
      'map.clusters',
      not map_.clusters
      or (map_.design == 'balanced' and study.task.near_duplicates > 0),
      'False unless map.design is balanced and task.near_duplicates above 0',
    ),
    ('map.fit_accuracy', map_.fit_accuracy > 0, 'above 0'),
    (
      'map.small_class',
      map_.small_class == 0
      or (map_.small_class > 0 and map_.design == 'balanced'),
      'at least 0, and 0 unless map.design is balanced',
    ),
    (
      'map.small_class_ratio',
      0 < map_.small_class_ratio < 1
      and (not map_.small_class or _has_both_sides(map_)),
      'between 0 and 1, and leave every example a run with and one without it',
    ),
    (
      'map.gradient_runs',
      0 <= map_.gradient_runs <= map_.num_runs,
      'at least 0 and at most map.num_runs',
    ),
    (
      'map.gradient_epoch',
      1 <= map_.gradient_epoch <= map_.num_epochs,
      'from 1 to map.num_epochs',
    ),
    (
      'map.crossed',
      not map_.crossed
      or (
        map_.num_runs
        and len(map_.crossed) == 2
        and min(map_.crossed) >= 2
        and map_.crossed[1] <= 500
      ),
      'empty, or numbers of subsets and of seeds, from 2 to 500 of them, of a '
      'study with map runs',
    ),
    ('map.pairs', map_.pairs in (0, *range(2, 501)), '0, or from 2 to 500'),
    (
      'map.pairs',
      not map_.pairs or (map_.small_class == 0 and map_.ratio == 0.5),
      '0 unless map.ratio is 0.5 and map.small_class 0: pairs are of halves, '
      'and count as map runs',
    ),
    (
      'control.map_pairs',
      control.map_pairs in (0, *range(2, 501))
      and (control.seeds or not control.map_pairs),
      '0, or from 2 to 500 of a study with control.seeds',
    ),
    (
      'control.pairs',
      all(map(_is_layers, control.pairs)) and _differ(control.pairs),
      'different groups of different layers, which count from 1, such as '
      '((1, 2), (3, 4))',
    ),
    ('control.auxiliary', control.auxiliary in tasks[:-1], 'a known task'),
    ('control.auxiliary_limit', control.auxiliary_limit >= 0, 'at least 0'),
    *(
      (
        f'localise.layerwise.{name}',
        getattr(layerwise, name) >= 1,
        'at least 1',
      )
      for name in ('span', 'orders', 'max_tokens')
    ),
    (
      'localise.layerwise.exact',
      0 <= layerwise.exact <= 16,
      'from 0 to 16',
    ),
    *(
      (
        f'localise.inputs.{name}',
        getattr(inputs, name) >= least,
        f'at least {least}',
      )
      for name, least in (
        ('examples', 0),
        ('units', 1),
        ('steps', 0),
        ('draws', 1),
        ('max_tokens', 1),
      )
    ),
    ('localise.patching.examples', patching.examples >= 0, 'at least 0'),
    ('localise.units.examples', units.examples >= 0, 'at least 0'),
    ('localise.units.held_out', units.held_out >= 0, 'at least 0'),
    ('localise.units.mask_steps', units.mask_steps >= 0, 'at least 0'),
    *(
      (
        f'localise.units.{name}',
        all(count >= 1 for count in getattr(units, name))
        and _differ(getattr(units, name)),
        'different numbers from 1',
      )
      for name in ('heads', 'neurons')
    ),
    (
      'localise.units.heads',
      bool(units.heads or units.neurons),
      'some numbers unless localise.units.neurons has some',
    ),
    ('localise.inputs.unit', inputs.unit in ('token', 'word'), 'token or word'),
    (
      'localise.inputs.replace',
      inputs.replace in ('mask', 'remove'),
      'mask or remove',
    ),
    (
      'localise.inputs.strengths',
      all(0 < a < b for a, b in itertools.pairwise(inputs.strengths))
      and all(0 < s <= 1 for s in inputs.strengths),
      'increasing shares above 0 and at most 1',
    ),
    (
      'localise.inputs.deleted',
      all(k >= 1 for k in inputs.deleted) and _differ(inputs.deleted),
      'different numbers from 1',
    ),
    ('localise.layerwise.held_out', layerwise.held_out >= 0, 'at least 0'),
    ('map.learning_rate', map_.learning_rate > 0, 'above 0'),
    ('map.evaluate_every', map_.evaluate_every >= 0, 'at least 0'),
    ('map.seed', 0 <= map_.seed < 2**20, 'from 0 to 2**20 - 1'),
    (
      'model.layers',
      1 <= study.model.layers <= _DEEPEST,
      f'from 1 to {_DEEPEST}',
    ),
    ('model.keep_layers', study.model.keep_layers >= 0, 'at least 0'),
    (
      'model.start',
      study.model.start in ('pretrained', 'random'),
      'pretrained or random',
    ),
    *(
      (
        f'model.{name}',
        not folders
        or (len(folders) == len(train.seeds) and study.task.has_noise),
        f'empty, or {len(train.seeds)} folders, one for each of train.seeds, '
        'of a study with wrong labels',
      )
      for name, folders in (
        ('noisy', study.model.noisy),
        ('clean', study.model.clean),
      )
    ),
    *(
      (
        f'model.{role}_memorised',
        not early or len(early) == len(late),
        f'empty, or as many folders as there are in model.{role}',
      )
      for role, early, late in (
        ('noisy', study.model.noisy_memorised, study.model.noisy),
        ('clean', study.model.clean_memorised, study.model.clean),
      )
    ),
    (
      'model.frozen',
      not study.model.frozen
      or (
        study.model.noisy and len(study.model.frozen) in (1, len(train.seeds))
      ),
      'empty, or one folder or one for each of train.seeds, of a study with '
      'model.noisy',
    ),
    (
      'train.snapshots',
      all(1 <= e <= train.num_epochs for e in train.snapshots)
      and _differ(train.snapshots),
      'different epochs from 1 to train.num_epochs',
    ),
    (
      'localise.retrain.held_out',
      not retrain.held_out or (train.seeds and study.task.has_noise),
      "'' unless there are main models with wrong labels",
    ),
    (
      'localise.gradient.clean',
      not study.localise.gradient.clean
      or (
        len(study.localise.gradient.clean) in {1, len(train.seeds)}
        and train.seeds
        and study.task.has_noise
      ),
      'empty, or one file or one for each of train.seeds, of a study with '
      'wrong labels',
    ),
    ('localise.retrain.seed', retrain.seed >= 0, seeds),
    ('localise.retrain.programs', retrain.programs >= 0, 'at least 0'),
    (
      'localise.retrain.learning_rate',
      retrain.learning_rate > 0,
      'above 0',
    ),
    *(
      (
        f'localise.probe.{name}',
        1 <= getattr(probe, name) <= most,
        f'from 1 to {most}',
      )
      for name, most in (
        ('seeds', _MOST_DRAWS),
        ('hidden', _WIDEST),
        ('layers', _DEEPEST),
      )
    ),
    ('localise.probe.weight_decay', probe.weight_decay >= 0, 'at least 0'),
    (
      'localise.ablation.variants',
      set(variants) <= set(ablation.VARIANTS)
      and _differ(variants)
      and bool(variants),
      f'some of {", ".join(ablation.VARIANTS)}, each once',
    ),
    (
      'localise.probe.first_epoch',
      1 <= probe.first_epoch <= probe.num_epochs,
      'from 1 to localise.probe.num_epochs',
    ),
    ('localise.probe.learning_rate', probe.learning_rate > 0, 'above 0'),
    ('localise.probe.dropout', 0 <= probe.dropout < 1, 'in [0, 1)'),
    (
      'localise.techniques',
      set(study.localise.techniques) <= set(TECHNIQUES)
      and _differ(study.localise.techniques),
      f'some of {", ".join(TECHNIQUES)}, each once',
    ),
    ('control.grade', control.grade > 0, 'above 0'),
    ('control.learning_rate', control.learning_rate > 0, 'above 0'),
    ('control.auxiliary_rate', control.auxiliary_rate >= 0, 'at least 0'),
    ('engine.lanes', study.engine.lanes >= 0, 'at least 0'),
    ('engine.devices', study.engine.devices >= 0, 'at least 0'),
    (
      'engine.shard',
      study.engine.shard in PLACEMENTS,
      f'one of {", ".join(PLACEMENTS)}',
    ),
    (
      'engine.checkpoint_minutes',
      study.engine.checkpoint_minutes >= 0,
      'at least 0',
    ),
    ('engine.segment_steps', study.engine.segment_steps >= 1, 'at least 1'),
    (
      'engine.unroll',
      study.engine.unroll in ('auto', 'always', 'never'),
      'one of auto, always, never',
    ),
    (
      'engine.matmul_precision',
      study.engine.matmul_precision in ('float32', 'tensorfloat32', 'bfloat16'),
      'one of float32, tensorfloat32, bfloat16',
    ),
    *(
      (
        f'engine.{name}',
        getattr(study.engine, name) in ('float32', 'bfloat16'),
        'float32 or bfloat16',
      )
      for name in ('compute', 'moments')
    ),
    # Last, as names of a grid may stand for tasks until all else is right.
    ('task.name', task.name in tasks, f'one of {", ".join(tasks)}'),
  )
  for name, holds, wanted in checks:
    if not holds:
      value = functools.reduce(getattr, name.split('.'), study)
      raise InputError(f'--config.{name}={shown(value)}: must be {wanted}.')


def _differ(values: Sequence[Any]) -> bool:
  """Whether nothing is there twice."""
  return len(set(values)) == len(values)


def _is_layers(group: Sequence[int]) -> bool:
  return bool(group) and min(group) >= 1 and _differ(group)


def _is_path(place: str) -> bool:
  """Whether a file system could have it, as far as lengths go."""
  parts = place.split('/')
  return all(len(os.fsencode(part)) <= _LONGEST_NAME for part in parts)


def _has_both_sides(config: 'MapConfig') -> bool:
  """Whether examples of small classes are in some runs and not in others."""
  share = config.small_class_ratio * config.num_runs
  return not config.num_runs or 1 <= share <= config.num_runs - 1
