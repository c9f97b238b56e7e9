"""What one finished language model recites of a text, without any training.

Nothing here can tell memory from predictability: a model that was not trained
on a text may continue it, too. So sequences are *recited*, never memorised.
"""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pandas as pd

from memloc_jax import schema
from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint, interface
from memloc_jax.models.decoder import Decoder
from memloc_jax.sequences import (
  documents,
  measures,
  scoring,
  tokenizer,
  windows,
)

# Probabilities p for which the n of (n, p)-discoverable extraction is given.
_DISCOVERED = (0.1, 0.5, 0.9)
# Sequences that are decoded at once.
_BATCH = 32

_NATS = schema.Kind(float, high=0, text='nats, at most 0')
_LOG10 = schema.Kind(float, 0, text='log10, at least 0')
TABLE = schema.Table(
  'recited',
  'sequence and context',
  {
    'id': schema.TEXT('of the document'),
    'sha256': schema.TEXT("of the document's text"),
    'context': schema.POSITIVE('tokens that the model reads before'),
    'length': schema.POSITIVE('tokens of the continuation'),
    'anchor': schema.COUNT('tokens of the document before the continuation'),
    'recited': schema.BOOL(
      'whether greedy decoding gives the whole continuation'
    ),
    'accuracy': schema.PROBABILITY(
      'share of its tokens that are the likeliest after those before them'
    ),
    'greedy_match': schema.PROBABILITY(
      'share of positions at which free greedy decoding equals the text'
    ),
    'log_likelihood': _NATS('mean log-probability of a token'),
    'log_p_z': _NATS.or_missing(
      'log-probability of the continuation under sampling from the 40 '
      'likeliest tokens; missing where that cannot give it'
    ),
    'samples_10 samples_50 samples_90': _LOG10.or_missing(
      'samples until it comes with probability 0.1, 0.5, 0.9, as log10; '
      'missing where it cannot'
    ),
    'tied': schema.BOOL(
      'whether some token has the same logit as another one, so that rounding '
      'decides which is the likelier'
    ),
    'text': schema.TEXT('the context'),
    'continuation': schema.TEXT('as it is in the document'),
    'decoded': schema.TEXT('by free greedy decoding'),
  },
  text='Written by `memloc extract`, see [extraction.md](extraction.md).',
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Which sequences are looked at.

  Attributes:
    contexts: numbers of tokens that the model reads before the continuation.
    length: tokens of the continuation.
    limit: most sequences, drawn at random; None for all.
    seed: of the draw.
  """

  contexts: tuple[int, ...] = (32,)
  length: int = 16
  limit: int | None = 1000
  seed: int = 0

  def __post_init__(self):
    contexts = self.contexts
    if min(contexts, default=0) < 1 or len(set(contexts)) < len(contexts):
      raise InputError(
        f'--context={",".join(map(str, contexts))}: must be at least 1, and no '
        'number twice.'
      )
    if self.length < 1:
      raise InputError(f'--length={self.length}: must be at least 1.')
    if self.limit is not None and self.limit < 1:
      raise InputError(f'--limit={self.limit}: must be at least 1.')


@dataclasses.dataclass(frozen=True)
class Extracted:
  """What was found.

  Attributes:
    table: `TABLE`, the likeliest continuations first.
    documents: number of documents in the source.
    scored: of them, those that are long enough.
    settings: which sequences were looked at.
    origin: model, source and columns as they were given, and hashes of the
      model and the tokenizer.
  """

  table: pd.DataFrame
  documents: int
  scored: int
  settings: Settings
  origin: dict[str, str | None]

  @property
  def text(self) -> str:
    """The result in one or two sentences."""
    longest = self.table[self.table['context'] == max(self.settings.contexts)]
    count, found = len(longest), int(longest['recited'].sum())
    return (
      f'The model recites {found:,} of {count:,} continuations of '
      f'{self.settings.length} tokens after {max(self.settings.contexts)}; '
      f'{self.scored:,} of {self.documents:,} documents are long enough to be '
      'asked for. Whether it has memorised them, one model cannot tell.'
    )


def extract(
  model: str,
  source: str,
  text: str = 'text',
  id: str | None = None,
  settings: Settings | None = None,
  cache: str | pathlib.Path = checkpoint.CACHE,
) -> Extracted:
  """Asks a finished model for the continuations of a text's documents.

  Args:
    model: as `checkpoint.resolve` takes it, of a causal family.
    source: of the documents, see `documents.load`.
    text: the column of the texts, where there are columns.
    id: the column that identifies documents.
    settings: which sequences; by default 1,000 of 16 tokens after 32.
    cache: folder for unpacked models.

  Raises:
    InputError: the model or the source is at fault, no document is long enough,
      sequences do not fit the model, or its probabilities are not finite.
  """
  settings = settings or Settings()
  # The file before the model, which may have to be downloaded.
  found = documents.load(source, text, id).documents
  folder = checkpoint.resolve(model, cache)
  network = checkpoint.load_model(folder, next_token=True)
  assert isinstance(network, Decoder)  # Or it was refused.
  tokens = tokenizer.tokens(found.texts, folder, network.vocab_size)
  most = max(settings.contexts) + settings.length
  if most + (tokens.begin is not None) > network.max_length:
    raise InputError(
      f'{model}: it reads at most {network.max_length} tokens, and context and '
      f'continuation have {most}; choose shorter ones.'
    )
  whole = windows.anchored(tokens, settings.contexts, (settings.length,))
  chosen = whole
  if settings.limit is not None and settings.limit < len(whole):
    rng = np.random.default_rng([0x72656364, settings.seed])
    chosen = whole.take(np.sort(rng.permutation(len(whole))[: settings.limit]))
  params = checkpoint.load_params(folder, network)
  placed = jax.device_put(
    {name: params[name] for name in ('embeddings', 'blocks', 'final')}
  )
  at = chosen.document
  continuation = tokenizer.decode(chosen.continuation, folder)
  parts = []
  for context in settings.contexts:
    encoded = chosen.encoded(context)
    first = chosen.first(context)
    [scores] = scoring.score(network, [params], encoded, first)
    if not np.isfinite(scores['logp']).all():
      raise InputError(
        f'{model}: it gives probabilities that are not finite; its weights are '
        'damaged, or it diverged in training.'
      )
    decoded = _decoded(network, placed, encoded.ids[:, :first], settings.length)
    columns = _measured(scores[None], decoded, chosen.continuation)
    read = chosen.ids[:, : max(settings.contexts)]
    parts.append(
      pd.DataFrame(
        {
          'id': [found.ids[i] for i in at],
          'sha256': [found.sha256[i] for i in at],
          'context': context,
          'length': settings.length,
          'anchor': chosen.anchor,
          **columns,
          'text': tokenizer.decode(read[:, -context:], folder),
          'continuation': continuation,
          'decoded': tokenizer.decode(decoded, folder),
        }
      )
    )
  table = pd.concat(parts, ignore_index=True)
  order = table.sort_values(
    ['context', 'log_likelihood'], ascending=[False, False], kind='stable'
  )
  return Extracted(
    table=order.reset_index(drop=True),
    documents=whole.documents,
    scored=len(whole),
    settings=settings,
    origin={
      'model': model,
      'source': source,
      'text': text,
      'id': id,
      'model_fingerprint': checkpoint.fingerprint(folder),
      'tokenizer_fingerprint': tokenizer.fingerprint(folder),
    },
  )


def _measured(
  scores: np.ndarray, decoded: np.ndarray, ids: np.ndarray
) -> dict[str, np.ndarray]:
  """Columns of the table, [sequences] each.

  Args:
    scores: `scoring.TOKEN` [1, sequences, length].
    decoded: by free greedy decoding, int [sequences, length].
    ids: of the text, likewise.
  """
  log_p = measures.log_p_z(scores['logp_k'])[0]
  possible = np.isfinite(log_p)
  missing = lambda values: np.where(possible, values, np.nan)
  return {
    'recited': measures.extractable(scores['rank'])[0],
    'accuracy': measures.accuracy(scores['rank'])[0],
    'greedy_match': measures.greedy_match(decoded[None], ids)[0],
    'log_likelihood': measures.log_likelihood(scores['logp'])[0],
    'log_p_z': missing(log_p),
    **{
      f'samples_{100 * p:.0f}': missing(measures.log10_n(log_p, p))
      for p in _DISCOVERED
    },
    'tied': scores['tied'][0].any(axis=-1),
  }


@functools.partial(jax.jit, static_argnums=(0, 3))
def _greedy(
  model: Decoder, params: interface.Tree, prompt: jax.Array, count: int
) -> jax.Array:
  return model.greedy(params, prompt, count)


def _decoded(
  model: Decoder, params: interface.Tree, prompts: np.ndarray, count: int
) -> np.ndarray:
  """Free greedy continuations, int32 [sequences, count], in batches.

  Args:
    model: the model.
    params: on the device.
    prompts: int32 [sequences, length].
    count: tokens to add.
  """
  size = min(_BATCH, len(prompts))
  result = np.empty((len(prompts), count), np.int32)
  for start in range(0, len(prompts), size):
    # The last batch is filled up with sequences of the one before.
    rows = np.arange(start, start + size).clip(max=len(prompts) - 1)
    found = np.asarray(_greedy(model, params, prompts[rows], count))
    result[rows] = found
  return result
