"""Attention written out against `jax.nn.dot_product_attention`, in turns.

Command:  python -m benchmarks.attention --out=attention.json
Cost:     about two minutes on 2 CPU cores.
Result:   for several lengths, seconds of gradients of both and their ratio;
          on a GPU also those of its cuDNN implementation, in bfloat16.

Both see the same random queries, keys and values of a chunk of runs, a causal
mask and padding, without dropout, which the library's function lacks.
"""

import argparse
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from memloc_jax.models import transformer

# Runs, sequences, heads and width of a head, as of MiniLM and BERT's size.
_RUNS, _BATCH, _HEADS, _WIDTH = 4, 8, 12, 64
_LENGTHS = (16, 128, 512)
_TOLERANCE = 1e-3


def main(arguments: list[str] | None = None) -> int:
  """Times every length; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.attention', description=__doc__.splitlines()[0]
  )
  parser.add_argument('--out', type=pathlib.Path, help='JSON file to write')
  parser.add_argument('--repetitions', type=int, default=9)
  parser.add_argument('--lengths', type=int, nargs='+', default=_LENGTHS)
  flags = parser.parse_args(arguments)
  device = jax.devices()[0]
  content: dict[str, Any] = {
    'benchmark': 'attention',
    'environment': harness.environment(device),
    'config': {'repetitions': flags.repetitions},
    'lengths': {},
  }
  with jax.default_matmul_precision('float32'):
    for length in flags.lengths:
      found = _measure(length, flags.repetitions, device.platform)
      content['lengths'][length] = found
      for name, ratio in found['ratios'].items():
        print(
          f'length {length}: {name} takes {ratio["median"]:.2f} '
          f'({ratio["q1"]:.2f} to {ratio["q3"]:.2f}) of the time written out'
        )
  if flags.out is not None:
    harness.write(flags.out, content)
  return 0 if all(x['passed'] for x in content['lengths'].values()) else 1


def _written_out(query, key, value, real):
  allowed = transformer.causal(query.shape[1]) & real[:, None, None, :]
  divisor = query.shape[-1] ** 0.5
  flat = transformer.attend(query, key, value, allowed, divisor, {})
  return flat.reshape(query.shape)


def library(query, key, value, real, implementation=None):
  return jax.nn.dot_product_attention(
    query,
    key,
    value,
    mask=real[:, None, None, :],
    is_causal=True,
    implementation=implementation,
  )


def _measure(length: int, repetitions: int, platform: str) -> dict[str, Any]:
  rng = np.random.default_rng(0)
  shape = (_RUNS, _BATCH, length, _HEADS, _WIDTH)
  inputs = jax.device_put(
    tuple(rng.normal(size=shape).astype(np.float32) for _ in range(3))
  )
  real = jnp.asarray(np.arange(length) < rng.integers(1, length + 1, (8, 1)))

  def job(attention, dtype):
    def loss(inputs):
      inputs = (x.astype(dtype) for x in inputs)
      out = jax.vmap(attention, in_axes=(0, 0, 0, None))(*inputs, real)
      # Of real positions only: what padding attends to is of no concern.
      return jnp.sum(jnp.where(real[None, :, :, None, None], out, 0) ** 2)

    gradient = jax.jit(jax.grad(loss))
    return harness.Contender(lambda: jax.block_until_ready(gradient(inputs)))

  contenders = {
    harness.OURS: job(_written_out, jnp.float32),
    harness.LIBRARY: job(library, jnp.float32),
  }
  if platform == 'gpu':
    cudnn = functools.partial(library, implementation='cudnn')
    contenders['written out, bfloat16'] = job(_written_out, jnp.bfloat16)
    contenders['cuDNN, bfloat16'] = job(cudnn, jnp.bfloat16)
  what = f'gradients of {_RUNS} runs, {_BATCH} sequences of {length}'
  return harness.measure(
    harness.Job(what, contenders, _difference, harness.LIBRARY),
    repetitions,
    _TOLERANCE,
  )


def _difference(ours: Any, theirs: Any) -> float:
  gaps = [np.abs(a - b).max() for a, b in zip(ours, theirs)]
  return float(max(gaps) / max(np.abs(b).max() for b in theirs))


if __name__ == '__main__':
  raise SystemExit(main())
