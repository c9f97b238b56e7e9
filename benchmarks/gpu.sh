#!/usr/bin/env bash
# Correctness and speed on one GPU: a table, and JSON in $OUT or
# benchmarks/results. Nothing needs to be installed but JAX and what it trains
# with; flags are those of benchmarks/gpu.py, PYTHON names the interpreter.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# JAX takes its share of the memory at once; PyTorch needs the rest.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}

# A compilation cannot be interrupted from inside; what was measured before is
# in the JSON file.
exec timeout --kill-after=5 525 "${PYTHON:-python3}" -m benchmarks.gpu "$@"
