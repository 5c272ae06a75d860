#!/bin/sh
# Make the virtual environment VENV and install this clone with an extra (demo, dev) into it: sh install.sh VENV EXTRA
# sh install.sh VENV dist/NAME.whl installs a wheel instead.
# PYTHON=python3.12 names another interpreter. TORCH_INDEX=URL is one more place to find torch; where it is not set and
# there is no NVIDIA GPU, PyTorch's own index of CPU builds is used, as the default build brings 3 GB of CUDA.
# As root, where Python's venv is missing, it is installed with apt-get; NO_SYSTEM_PACKAGES=1 prevents that.
set -eu
cd "$(dirname "$0")"
venv=$1 extra=$2 python=${PYTHON:-python3}
case $extra in *.whl) what=$extra editable='' ;; *) what=".[$extra]" editable=-e ;; esac
cpu_builds=https://download.pytorch.org/whl/cpu

say() { echo "install: $*"; }
fail() { echo "install: $*" >&2; exit 1; }

make_venv() {
    command -v "$python" >/dev/null || fail "$python is missing; on Debian or Ubuntu: apt-get install python3 python3-venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$("$python" --version) is too old; Python 3.10 or newer is needed: make PYTHON=python3.12"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        if [ -n "${NO_SYSTEM_PACKAGES:-}" ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            fail "Python's venv is missing; as root: apt-get install python$version-venv"
        fi
        say "python$version-venv is missing: changing this system as root (NO_SYSTEM_PACKAGES=1 prevents that):"
        say "    apt-get update; apt-get install -y python$version-venv"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "python$version-venv" </dev/null
    fi
    "$python" -m venv "$venv"
}

wants_cpu_builds() {
    [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && ! ls /dev/nvidia0 >/dev/null 2>&1 &&
        "$venv/bin/python" -c "import urllib.request as u; u.urlopen('$cpu_builds/torch/', timeout=5)" 2>/dev/null
}

"$venv/bin/python" -m pip --version >/dev/null 2>&1 || { say "a virtual environment in $venv"; make_venv; }
if [ "${TORCH_INDEX+set}" != set ] && wants_cpu_builds; then
    TORCH_INDEX=$cpu_builds
    say "no NVIDIA GPU here: torch's CPU build from $cpu_builds (make TORCH_INDEX= for the default build)"
fi
say "elmo-pipeline ($extra) and what it stands on, into $venv: some minutes the first time"
"$venv/bin/python" -m pip install --disable-pip-version-check --no-input -c constraints.txt \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch $editable "$what"
touch "$venv/$(basename "$extra").stamp"
