#!/usr/bin/env bash
# Runs a study on one or several GPU nodes of a Kubernetes cluster, as a JobSet.
#
#   launch/jobset.sh [--dry_run] --name=NAME --image=IMAGE --claim=CLAIM \
#     [--nodes=1] [--gpus=1] --config=PRESET_OR_FILE --workdir=workdirs/FOLDER [FLAG...]
#
# The image holds the repository in /memloc_jax, installed. The persistent
# volume claim is mounted as its folder workdirs. --gpus is for each node.
# Other flags go to experiments/run.py as they are. --dry_run prints what
# kubectl would be given, launch/jobset.yaml filled in.
#
# Preempted or evicted, the study starts again by itself. To resume one that
# ended, delete the JobSet and make the same call.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
  echo "jobset.sh: $1" >&2
  exit 2
}

dry_run=false
name='' image='' claim='' nodes=1 gpus=1
config='' workdir=''
flags=()
for flag in "$@"; do
  value="${flag#*=}"
  case "${flag}" in
    --dry_run) dry_run=true ;;
    --name=*) name="${value}" ;;
    --image=*) image="${value}" ;;
    --claim=*) claim="${value}" ;;
    --nodes=*) nodes="${value}" ;;
    --gpus=*) gpus="${value}" ;;
    *)
      # shellcheck disable=SC2034  # Read below, by its name.
      case "${flag}" in
        --config=*) config="${value}" ;;
        --workdir=*) workdir="${value}" ;;
      esac
      flags+=("${flag}")
      ;;
  esac
done
for required in name image claim config workdir; do
  [[ -n "${!required}" ]] || fail "--${required}= is missing."
done
# Names of pods, and so of hosts, are this name and a suffix.
[[ "${name}" =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] \
  || fail "--name must be of at most 40 lower-case letters, digits and dashes."
[[ "${image}" =~ ^[[:alnum:]._:/@-]+$ ]] || fail "--image is no name."
[[ "${claim}" =~ ^[a-z0-9.-]+$ ]] || fail "--claim is no name."
[[ "${nodes}" =~ ^[1-9][0-9]*$ ]] || fail "--nodes must be a positive number."
[[ "${gpus}" =~ ^[1-9][0-9]*$ ]] || fail "--gpus must be a positive number."
[[ "${workdir}" == workdirs/?* && "${workdir}" != *..* ]] \
  || fail "--workdir must be in workdirs/: the rest is lost with the pod."

# Prints a flag as an item of the command, in YAML's double quotes.
item() {
  local text="$1"
  text="${text//\\/\\\\}"
  text="${text//\"/\\\"}"
  # Kubernetes would fill in $(NAME).
  text="${text//\$(/\$\$(}"
  printf '                    - "%s"\n' "${text}"
}

# Puts a value where a line of the manifest has its name: put NAME VALUE.
put() {
  line="${line//\$\{$1\}/$2}"
}

render() {
  local line
  while IFS= read -r line; do
    if [[ "${line}" == *'# FLAGS' ]]; then
      for flag in "${flags[@]}"; do
        item "${flag}"
      done
      continue
    fi
    put name "${name}"
    put image "${image}"
    put claim "${claim}"
    put nodes "${nodes}"
    put gpus "${gpus}"
    put devices "$(seq -s , 0 $((gpus - 1)))"
    printf '%s\n' "${line}"
  done < jobset.yaml
}

if "${dry_run}"; then
  render
else
  render | kubectl apply --filename=-
fi
