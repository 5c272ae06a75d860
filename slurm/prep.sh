#!/usr/bin/env bash
# Prepare a dataset on many nodes: three jobs, each after the one before, with the code as it is now.
#   slurm/prep.sh [--dry-run] [--tasks=16] [SBATCH OPTIONS] input=FILES output=DIR [KEY=VALUE ...]
# Run again after a failure: finished parts are not done again. The last task writes DIR/index.json.
set -euo pipefail
clone=$(realpath "$(dirname "$0")/..") tasks=16 dry='' options=() arguments=()
for argument; do
    case $argument in
        --dry-run) dry=yes ;;
        --tasks=*) tasks=${argument#--tasks=} ;;
        -*) options+=("$argument") ;;
        *) arguments+=("$argument") ;;
    esac
    [[ $argument != output=* ]] || output=${argument#output=}
    [[ $argument != input=* ]] || input=given
done
[ -n "${input:-}" ] || { echo 'input= is missing: give files, folders or globs' >&2; exit 2; }
[ -n "${output:-}" ] || { echo 'output= is missing: give the folder of the dataset' >&2; exit 2; }
output=${output/#\~\//$HOME/} # elmo expands ~ too
while [[ $output == ?*/ ]]; do output=${output%/}; done # else the code would lie in the output folder
code=$output.code/$(date -u +%Y%m%dT%H%M%SZ)
[ -n "$dry" ] || bash "$clone/slurm/pin.sh" "$clone" "$code"
submit() { # OPTION... -- ARGUMENT...
    local command=(sbatch --parsable --kill-on-invalid-dep=yes "${options[@]}" "$@" "${arguments[@]}")
    if [ -n "$dry" ]; then printf '%q ' "${command[@]}" >&2; echo >&2; echo JOB; else "${command[@]}"; fi
}
script=$(realpath -m "$code")/slurm/prep.sbatch
encode=$(submit --array=0-$((tasks - 1)) "$script" step=encode)
merge=$(submit --dependency="afterok:$encode" "$script" step=merge)
shard=$(submit --dependency="afterok:$merge" --array=0-$((tasks - 1)) "$script" step=shard)
echo "submitted: encode $encode, merge $merge, shard $shard"
