"""The embedded task's encoder: a few seconds of masked-language modelling.

It is trained by the same engine as everything else, on unlabelled sentences
of the embedded task's generator, and stored in the Hugging Face format, so
that from then on it is a checkpoint like any other.
"""

import hashlib
import pathlib
import tempfile

import jax
import numpy as np

from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.store import RowStore
from memloc_jax.ensemble.table import (
  RANDOM,
  Objective,
  Program,
  TrainingTable,
  make_table,
)
from memloc_jax.ensemble.train import train
from memloc_jax.models import checkpoint
from memloc_jax.models.bert import Bert
from memloc_jax.study.progress import Progress
from memloc_jax.tasks import embedded, encode

# Size and training of the encoder; small enough for two CPU cores.
_WIDTH, _HEADS, _HIDDEN = 64, 4, 128
_LONGEST = 32
# Wider than BERT's 0.02: a width of 64 needs it to learn in seconds.
_SCALE = 0.05
_SENTENCES, _EPOCHS, _BATCH, _RATE, _SEED = 4000, 4, 32, 2e-3, 0
# Raise when any of the training code changes what comes out.
_VERSION = 1


def encoder(
  cache: pathlib.Path, progress: Progress, layers: int = 4
) -> pathlib.Path:
  """The encoder's folder, trained first if the cache does not have it.

  Args:
    cache: folder of caches.
    progress: to report to.
    layers: of the encoder.

  Returns:
    A folder with config.json, model.safetensors and the tokenizer.
  """
  sentences = embedded.unlabelled(_SENTENCES, _SEED)
  vocabulary = embedded.vocabulary()
  settings = (
    _VERSION,
    layers,
    _WIDTH,
    _HEADS,
    _HIDDEN,
    _LONGEST,
    _SCALE,
    _EPOCHS,
    _BATCH,
    _RATE,
    _SEED,
    vocabulary,
    sentences,
  )
  digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
  folder = cache / f'encoder-{digest}'
  if not folder.is_dir():
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
      _train(pathlib.Path(scratch), folder, sentences, layers, progress)
  return folder


def _train(scratch, folder, sentences, layers, progress: Progress) -> None:
  """Trains the encoder and exports it to `folder`."""
  tokenizer = scratch / 'tokenizer'
  embedded.write_tokenizer(tokenizer)
  tokens = encode.tokenise([(s,) for s in sentences], tokenizer, _LONGEST, None)
  encoded = tokens.pack(0, len(sentences), (int(tokens.length.max()),))
  vocabulary = (tokenizer / 'vocab.txt').read_text('utf-8').split()
  model = Bert(
    num_layers=layers,
    width=_WIDTH,
    num_heads=_HEADS,
    hidden=_HIDDEN,
    vocab_size=len(vocabulary),
    max_positions=_LONGEST,
    initial_scale=_SCALE,
  )
  objective = Objective(
    'mask', len(vocabulary), 'mask', vocabulary.index('[MASK]')
  )
  labels = np.zeros((1, len(sentences)), np.int32)
  # Every start weight is random: shapes are all that is needed of these.
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  nothing = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
  store = RowStore(scratch / 'rows')
  engine = Engine(
    model=model,
    pretrained=nothing,
    fingerprint='random',
    store=store,
    devices=(jax.local_devices()[0],),
    lanes=1,
    unroll=False,
    on_epoch=progress.epoch,
  )
  train(
    engine,
    TrainingTable(
      name='encoder',
      program=Program(
        (objective,),
        num_epochs=_EPOCHS,
        batch_size=_BATCH,
        dropout=False,
        train_embeddings=True,
        evaluate_every=0,
      ),
      runs=make_table(
        np.ones((1, len(sentences)), bool),
        num_layers=layers,
        seed=np.array([_SEED]),
        purpose=['encoder'],
        learning_rate=_RATE,
        label_set=0,
        dropout=0.0,
        start=RANDOM,
      ),
      examples=(encoded.with_labels(labels),),
      validation=None,
      keep=np.ones(1, bool),
      seed=_SEED,
    ),
  )
  like = nothing | {'heads': {'mask': {}}}
  params = store.read_weights('encoder', 0, like)
  trained = {key: params[key] for key in ('embeddings', 'blocks', 'final')}
  checkpoint.export(folder, model, trained, tokenizer, ())
