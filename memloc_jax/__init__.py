"""memloc_jax: which examples a text classifier memorises, and where.

The names of `PLACES` are the public interface, see docs/reference.md. Each is
imported when it is first used, so that `import memloc_jax` is quick and leaves
devices alone.
"""

import importlib
import os
from typing import Any

# Silences the warning of `transformers` that PyTorch is missing: only its
# tokenizers are used.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

__version__ = '0.1.0'

# Where each public name is defined, and what it is called there if that is
# another name; '' stands for a module.
PLACES = {
  # A DataFrame in, scores and layer curves out.
  'memorise': 'api',
  'localise': 'api',
  'check': 'api',
  'Result': 'api',
  'Example': 'api',
  'MapRuns': 'api',
  'Checked': 'curate.check',
  # Studies.
  'run_study': 'stages',
  'plan_study': 'stages',
  'validate_study': 'stages',
  'Progress': 'study.progress',
  'StudyConfig': 'study.config',
  'default_config': 'study.config:default',
  'from_config_dict': 'study.config',
  'InputError': 'errors',
  'Preempted': 'errors',
  # Scores from predictions of one's own.
  'memorisation': 'estimators.memorisation',
  'Memorisation': 'estimators.memorisation',
  # Techniques of one's own.
  'register_technique': 'localisation.technique',
  'Source': 'localisation.technique',
  'Subject': 'localisation.technique',
  'Checkpoint': 'localisation.technique',
  'Findings': 'localisation.technique',
  'LayerScores': 'localisation.technique',
  'schema': '',
  'settings': '',
  # Tasks and sources of one's own.
  'register_task': 'tasks.registry',
  'Task': 'tasks.registry',
  'Hub': 'tasks.registry',
  'register_source': 'tasks.sources',
  # Model families of one's own.
  'register_family': 'models.registry',
  'FAMILIES': 'models.registry',
  'Family': 'models.family',
  'Model': 'models.interface',
  # Optimisers of one's own.
  'register_optimiser': 'ensemble.optimiser:register',
  'from_optax': 'ensemble.optimiser',
  'Optimiser': 'ensemble.optimiser',
}
__all__ = list(PLACES)


def __getattr__(name: str) -> Any:
  if name not in PLACES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module, _, attribute = PLACES[name].partition(':')
  if not module:
    return importlib.import_module(f'{__name__}.{name}')
  found = importlib.import_module(f'{__name__}.{module}')
  return getattr(found, attribute or name)


def __dir__() -> list[str]:
  return sorted({*globals(), *PLACES})
