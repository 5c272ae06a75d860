#!/usr/bin/env bash
# Copy into TARGET the code of CLONE as it is now and the .yaml files among the arguments; write REVISION and ARGUMENTS.
# A zero byte ends each argument in ARGUMENTS, because an argument may hold a line end.
#   pin.sh CLONE TARGET [ARGUMENT ...]
set -euo pipefail
clone=$1 target=$2
shift 2
mkdir -p -- "$(dirname -- "$target")"
aside=$(mktemp -d -- "$target.XXXXXX")
tar -C "$clone" --exclude=__pycache__ -cf - pipeline data_prep configs slurm | tar -C "$aside" -xf -
mkdir "$aside/submitted"
for argument; do
    if [[ $argument == *.yaml && $argument != *=* ]]; then
        copy=submitted/$(basename -- "$argument")
        while [ -e "$aside/$copy" ]; do copy=submitted/other-${copy#submitted/}; done # a/x.yaml and b/x.yaml
        cp -- "$argument" "$aside/$copy"
        argument=$(realpath -- "$(dirname -- "$target")")/$(basename -- "$target")/$copy
    fi
    printf '%s\0' "$argument"
done >"$aside/ARGUMENTS"
revision=$(git -C "$clone" describe --always --dirty --abbrev=40 2>/dev/null || echo "no clone, $(date -u +%FT%TZ)")
echo "$revision" >"$aside/REVISION"
chmod 755 "$aside"
mv -T -- "$aside" "$target"
