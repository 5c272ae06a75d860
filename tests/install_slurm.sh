#!/bin/sh
# What the tests on a throwaway Slurm need, where it is missing and may be installed; never a reason to fail.
# NO_SYSTEM_PACKAGES=1: install nothing.
packages="slurmctld slurmd slurm-client munge iproute2 procps"
PATH=$PATH:/usr/sbin:/sbin
say() { echo "tests: $*"; }

for program in slurmctld slurmd srun munged ip pgrep; do
    command -v "$program" >/dev/null || missing="${missing:-}$program "
done
if [ -z "${missing:-}" ]; then
    say "Slurm is here"
elif [ -n "${NO_SYSTEM_PACKAGES:-}" ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "no Slurm here (${missing% }), so its tests will skip; as root on Debian or Ubuntu: apt-get install $packages"
else
    say "no Slurm here: changing this system as root for its tests (NO_SYSTEM_PACKAGES=1 prevents that):"
    say "    apt-get update; apt-get install -y --no-install-recommends $packages"
    log=$(mktemp)
    if { timeout 120 apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 300 \
        apt-get install -qq -y --no-install-recommends $packages; } >"$log" 2>&1 </dev/null; then
        say "Slurm is installed"
    else
        say "Slurm could not be installed, so its tests will skip: $(tail -n 1 "$log")"
    fi
    rm -f "$log"
fi
exit 0
