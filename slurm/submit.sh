#!/usr/bin/env bash
# Pin code and config now, then submit:
#   slurm/submit.sh [--dry-run] [SBATCH OPTIONS] CONFIG.yaml run.dir=DIR data.path=DIR [KEY=VALUE ...]
# With from= (or finetune.source=) submit a fine-tuning (slurm/finetune.sbatch), else slurm/pretrain.sbatch.
# Write options of sbatch as --name=value. With --dry-run show what would be submitted, and make nothing.
set -euo pipefail
clone=$(realpath "$(dirname "$0")/..") dry=''
options=() arguments=() training=pretrain
for argument; do
    case $argument in
        --dry-run) dry=yes ;;
        -*) options+=("$argument") ;;
        *) arguments+=("$argument") ;;
    esac
    [[ $argument != run.dir=* ]] || run_dir=${argument#run.dir=}
    [[ $argument != from=* && $argument != finetune.source=* ]] || training=finetune
done
[ -n "${run_dir:-}" ] || { echo 'run.dir= is missing: give the folder of the run' >&2; exit 2; }
elmo=${ELMO:-$(command -v elmo || echo "$clone/.venv/bin/elmo")}
[ -n "${ELMO_CONTAINER:-}" ] || [ -x "$elmo" ] ||
    { echo 'no command elmo: activate its environment, or set ELMO=' >&2; exit 2; }
run_dir=${run_dir/#\~\//$HOME/}
aside=$(mktemp -d) status=0 # a wrong config is wrong everywhere; data and disk may differ on the nodes
touch "$aside/output" # without elmo here, only the nodes check
# SLURM_TMPDIR, for data.stage_dir, is set in jobs only; sbatch must not pass the one of here on.
[ ! -x "$elmo" ] || SLURM_TMPDIR=${SLURM_TMPDIR:-$aside} PYTHONPATH=$clone \
    "$elmo" preflight "${arguments[@]}" run.dir="$aside" >"$aside/output" || status=$?
output=$(cat "$aside/output") && rm -rf "$aside"
[ "$status" != 2 ] || exit 2
[ "$status" = 0 ] || echo "here     $output" >&2
code=$run_dir/code/$(date -u +%Y%m%dT%H%M%SZ)
if [ -n "$dry" ]; then
    echo "code     $(git -C "$clone" describe --always --dirty 2>/dev/null || echo "$clone") into $code"
    printf 'run      elmo %s' $training; printf ' %q' "${arguments[@]}"; echo
    sed -n 's/^#SBATCH /default  /p' "$clone/slurm/$training.sbatch"
    printf 'submit   sbatch'; printf ' %q' "${options[@]}" "$code/slurm/$training.sbatch" "${arguments[@]}"; echo
    exec sbatch --test-only "${options[@]}" "$clone/slurm/$training.sbatch" "${arguments[@]}"
fi
bash "$clone/slurm/pin.sh" "$clone" "$code" "${arguments[@]}"
exec sbatch "${options[@]}" "$(realpath "$code")/slurm/$training.sbatch" "${arguments[@]}"
