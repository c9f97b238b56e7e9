"""The embedded task's encoder: a few seconds of masked-language modelling.

It is trained by the same engine as everything else, on unlabelled sentences
of the embedded task's generator, and stored in the Hugging Face format, so
that from then on it is a checkpoint like any other.
"""

import hashlib
import pathlib
import tempfile
from collections.abc import Sequence

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
from memloc_jax.models.interface import Tree
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
# That the encoder is trained on, summed over epochs.
EXAMPLES = _SENTENCES * _EPOCHS


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
  folder = _folder(cache, sentences, layers)
  if not folder.is_dir():
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
      _train(pathlib.Path(scratch), folder, sentences, layers, progress)
  return folder


def is_trained(cache: pathlib.Path, layers: int) -> bool:
  """Whether the cache has the encoder."""
  sentences = embedded.unlabelled(_SENTENCES, _SEED)
  return _folder(cache, sentences, layers).is_dir()


def write_untrained(folder: pathlib.Path, layers: int) -> None:
  """Writes an encoder like the trained one, with weights of 0.

  Args:
    folder: that is made.
    layers: of the encoder.
  """
  with tempfile.TemporaryDirectory() as scratch:
    tokenizer = pathlib.Path(scratch) / 'tokenizer'
    model = _model(tokenizer, layers)
    checkpoint.export(folder, model, _nothing(model), tokenizer, ())


def _folder(
  cache: pathlib.Path, sentences: Sequence[str], layers: int
) -> pathlib.Path:
  """Where the trained encoder lies, named after all that it depends on."""
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
  return cache / f'encoder-{digest}'


def _model(tokenizer: pathlib.Path, layers: int) -> Bert:
  """The architecture; writes its tokenizer."""
  embedded.write_tokenizer(tokenizer)
  return Bert(
    num_layers=layers,
    width=_WIDTH,
    num_heads=_HEADS,
    hidden=_HIDDEN,
    vocab_size=len((tokenizer / 'vocab.txt').read_text('utf-8').split()),
    max_positions=_LONGEST,
    initial_scale=_SCALE,
  )


def _nothing(model: Bert) -> Tree:
  """Weights of 0."""
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)


def _train(scratch, folder, sentences, layers, progress: Progress) -> None:
  """Trains the encoder and exports it to `folder`."""
  tokenizer = scratch / 'tokenizer'
  model = _model(tokenizer, layers)
  tokens = encode.tokenise([(s,) for s in sentences], tokenizer, _LONGEST, None)
  encoded = tokens.pack(0, len(sentences), (int(tokens.length.max()),))
  vocabulary = (tokenizer / 'vocab.txt').read_text('utf-8').split()
  objective = Objective(
    'mask', len(vocabulary), 'mask', vocabulary.index('[MASK]')
  )
  labels = np.zeros((1, len(sentences)), np.int32)
  # Every start weight is random: shapes are all that is needed of these.
  nothing = _nothing(model)
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
