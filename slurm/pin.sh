#!/usr/bin/env bash
# Copy into TARGET the code of CLONE as it is now and the .yaml and .yml files among the arguments; write REVISION and ARGUMENTS.
# Beside scripts that `elmo slurm` wrote there is no clone: the code is that of the installed package.
# A zero byte ends each argument in ARGUMENTS, because an argument may hold a line end.
#   pin.sh CLONE TARGET [ARGUMENT ...]
set -euo pipefail
clone=$1 target=$2
shift 2
mkdir -p -- "$(dirname -- "$target")"
aside=$(mktemp -d -- "$target.XXXXXX")
if [ -e "$clone/pipeline/version.py" ]; then
    tar -C "$clone" --exclude=__pycache__ -cf - pipeline data_prep configs slurm | tar -C "$aside" -xf -
    revision=$(git -C "$clone" describe --always --dirty --abbrev=40 2>/dev/null || echo "no clone, $(date -u +%FT%TZ)")
elif [ -n "${ELMO_CONTAINER:-}" ]; then # the code is that of the container
    cp -r -- "$clone/slurm" "$aside/slurm"
    revision="$ELMO_CONTAINER, $(date -u +%FT%TZ)"
else
    elmo=${ELMO:-$(command -v elmo)}
    where='import pathlib, pipeline; print(pathlib.Path(pipeline.__file__).parents[1])'
    package=$(cd / && "$(dirname "$elmo")/python" -c "$where")
    tar -C "$package" --exclude=__pycache__ -cf - pipeline data_prep | tar -C "$aside" -xf -
    cp -r -- "$clone/slurm" "$aside/slurm"
    revision="$("$elmo" --version), $(date -u +%FT%TZ)"
fi
mkdir "$aside/submitted"
for argument; do
    if [[ $argument == *.y?(a)ml && $argument != *=* ]]; then
        copy=submitted/$(basename -- "$argument")
        while [ -e "$aside/$copy" ]; do copy=submitted/other-${copy#submitted/}; done # a/x.yaml and b/x.yaml
        cp -- "$argument" "$aside/$copy"
        argument=$(realpath -- "$(dirname -- "$target")")/$(basename -- "$target")/$copy
    fi
    printf '%s\0' "$argument"
done >"$aside/ARGUMENTS"
echo "$revision" >"$aside/REVISION"
chmod 755 "$aside"
mv -T -- "$aside" "$target"
