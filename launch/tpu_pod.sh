#!/usr/bin/env bash
# Runs a study on all hosts of a Cloud TPU slice and brings its workdir here.
#
#   launch/tpu_pod.sh [--dry_run] --name=SLICE --zone=ZONE \
#     --accelerator_type=TYPE --runtime_version=VERSION [--project=PROJECT] \
#     [--spot] [--copy=FOLDER...] [--delete] \
#     --config=PRESET_OR_FILE --workdir=FOLDER [FLAG...]
#
# The slice is used if it is there, else made. It gets the last commit (not
# what has changed since), the folders named with --copy (a data set, say) and
# the package in an environment of its own; then every host starts the same
# command. Other flags go to experiments/run.py as they are; paths are relative
# to the repository.
#
# --delete deletes the slice at the end, also after a failure; without it the
# slice stays, and costs money. --dry_run prints the commands instead: both
# describe and create, of which the second runs only if the first fails. The
# same call again resumes: workdirs stay on the slice, and a new slice gets the
# workdir that is here.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Where the code lies on a host, below the home folder.
readonly code=memloc_jax

fail() {
  echo "tpu_pod.sh: $1" >&2
  exit 2
}

# scp would read other characters in its own way.
check_path() {
  [[ "$2" =~ ^[[:alnum:]_][[:alnum:]._/-]*$ && "$2" != *..* ]] \
    || fail "$1 must be a path in the repository, of letters, digits and ._/-."
}

dry_run=false
delete=false
name='' zone='' project='' accelerator_type='' runtime_version=''
config='' workdir=''
creation=()
copies=()
flags=()
for flag in "$@"; do
  value="${flag#*=}"
  case "${flag}" in
    --dry_run) dry_run=true ;;
    --delete) delete=true ;;
    --spot) creation+=(--spot) ;;
    --name=*) name="${value}" ;;
    --zone=*) zone="${value}" ;;
    --project=*) project="${value}" ;;
    --accelerator_type=*) accelerator_type="${value}" ;;
    --runtime_version=*) runtime_version="${value}" ;;
    --copy=*)
      check_path --copy "${value%/}"
      copies+=("${value%/}")
      ;;
    *)
      # shellcheck disable=SC2034  # Read below, by its name.
      case "${flag}" in
        --config=*) config="${value}" ;;
        --workdir=*) workdir="${value%/}" ;;
      esac
      flags+=("${flag}")
      ;;
  esac
done
for required in name zone accelerator_type runtime_version config workdir; do
  [[ -n "${!required}" ]] || fail "--${required}= is missing."
done
check_path --workdir "${workdir}"

run() {
  if "${dry_run}"; then
    printf '%q' "$1"
    printf ' %q' "${@:2}"
    echo
  else
    "$@"
  fi
}

slice=("--zone=${zone}" --quiet)
[[ -z "${project}" ]] || slice+=("--project=${project}")

tpu() {
  run gcloud compute tpus tpu-vm "$@" "${slice[@]}"
}

everywhere() {
  tpu ssh "${name}" --worker=all "--command=$1"
}

# Copies a folder of the repository to the same place on every host.
send_folder() {
  local parent
  parent="${code}/$(dirname "$1")"
  everywhere "mkdir -p ${parent}"
  tpu scp --recurse --worker=all "$1" "${name}:${parent}"
}

if "${delete}"; then
  trap 'tpu delete "${name}"' EXIT
fi

made=false
describe=(describe "${name}" '--format=value(state)')
if "${dry_run}"; then
  tpu "${describe[@]}"
fi
if ! "${dry_run}" && state="$(tpu "${describe[@]}" 2> /dev/null)"; then
  if [[ "${state}" != READY ]]; then
    echo "tpu_pod.sh: ${name} is ${state}; delete it, then call again." >&2
    exit 1
  fi
else
  made=true
  tpu create "${name}" "--accelerator-type=${accelerator_type}" \
    "--version=${runtime_version}" ${creation[@]+"${creation[@]}"}
fi

archive="${TMPDIR:-/tmp}/${code}-${name}.tar.gz"
run git archive --format=tar.gz "--output=${archive}" HEAD
tpu scp --worker=all "${archive}" "${name}:${code}.tar.gz"
everywhere "mkdir -p ${code} && tar -xzf ${code}.tar.gz -C ${code}"
for folder in ${copies[@]+"${copies[@]}"}; do
  send_folder "${folder}"
done
if "${made}" && [[ -d "${workdir}" ]]; then
  send_folder "${workdir}"
fi
# The hosts' own Python may be too old; uv brings one.
everywhere "cd ${code} && { test -x .venv/bin/python || \
{ curl -LsSf https://astral.sh/uv/install.sh | sh && \
~/.local/bin/uv venv --seed --python 3.12 .venv; }; } && \
.venv/bin/pip install --quiet -e '.[tpu]'"

command="$(printf ' %q' .venv/bin/python experiments/run.py "${flags[@]}")"
status=0
everywhere "cd ${code} && exec${command}" || status=$?

# Also after a failure: what is finished is worth keeping.
folder="$(dirname "${workdir}")"
run mkdir -p "${folder}"
if ! tpu scp --recurse --worker=0 "${name}:${code}/${workdir}" "${folder}"; then
  echo "tpu_pod.sh: ${workdir} could not be fetched." >&2
  ((status)) || status=1
fi
exit "${status}"
