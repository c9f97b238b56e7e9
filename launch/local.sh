#!/usr/bin/env bash
# Runs a study on this machine: on all its GPUs where JAX sees any, else on the
# CPU.
#
#   launch/local.sh [--dry_run] --config=PRESET_OR_FILE --workdir=FOLDER \
#     [FLAG...]
#
# All of it goes to experiments/run.py as it is, so that another command of
# memloc can be named first; paths are relative to the repository. --dry_run prints the command instead. CUDA_VISIBLE_DEVICES and
# JAX_PLATFORMS choose devices, PYTHON the interpreter.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-}"
if [[ -z "${python}" ]]; then
  python=python
  [[ -x .venv/bin/python ]] && python=.venv/bin/python
fi

dry_run=false
flags=()
for flag in "$@"; do
  case "${flag}" in
    --dry_run) dry_run=true ;;
    *) flags+=("${flag}") ;;
  esac
done

command=("${python}" experiments/run.py ${flags[@]+"${flags[@]}"})
if "${dry_run}"; then
  printf '%q' "${command[0]}"
  printf ' %q' "${command[@]:1}"
  echo
else
  exec "${command[@]}"
fi
