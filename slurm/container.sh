#!/usr/bin/env bash
# Sourced by the .sbatch scripts: find elmo, and what makes srun run it in the container that ELMO_CONTAINER names:
#   srun "${container[@]}" ... "${inside[@]}" "$elmo" ...
# ELMO_CONTAINER=FILE.sif is run by apptainer, any other image (a .sqsh file, REGISTRY#NAME) by pyxis. The container sees
# the working folder, the folders in `visible` and those of ELMO_CONTAINER_MOUNTS=DIR,DIR.
container=() inside=()
if [ -n "${ELMO_CONTAINER:-}" ]; then
    elmo=${ELMO:-elmo} python=python3 mounts='' # python runs requeue.py outside
    IFS=, read -r -a more <<<"${ELMO_CONTAINER_MOUNTS:-}"
    for folder in "$PWD" "${visible[@]}" "${more[@]}"; do
        folder=$(realpath -m -- "$folder")
        mounts+=${mounts:+,}$folder:$folder
    done
    case $ELMO_CONTAINER in
        *.sif)
            command -v apptainer >/dev/null || {
                echo "ELMO_CONTAINER=$ELMO_CONTAINER needs the command apptainer, which is not on PATH: load its module"
                exit 2
            }
            inside=(apptainer exec --nv --pwd "$PWD" --bind "$mounts" "$ELMO_CONTAINER")
            ;;
        *) container=("--container-image=$ELMO_CONTAINER" "--container-mounts=$mounts" "--container-workdir=$PWD") ;;
    esac
else
    elmo=${ELMO:-$(command -v elmo || echo "$SLURM_SUBMIT_DIR/.venv/bin/elmo")}
    [ -x "$elmo" ] || { echo 'no command elmo: activate its environment before sbatch, or set ELMO='; exit 2; }
    python=$(dirname "$elmo")/python
fi
run_elmo() { # ARGUMENT...: one process of elmo in place of this script
    [ -n "${ELMO_CONTAINER:-}" ] || exec "$elmo" "$@"
    exec srun --ntasks=1 "${container[@]}" "${inside[@]}" "$elmo" "$@"
}
