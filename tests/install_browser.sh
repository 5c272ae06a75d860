#!/bin/sh
# The browser that looks at the page of `elmo plot`, where none is here and it may be installed; never a reason to fail.
# NO_SYSTEM_PACKAGES=1: install nothing.
say() { echo "tests: $*"; }

if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then
    say "a browser is here"
elif [ -n "${NO_SYSTEM_PACKAGES:-}" ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "no chromium here, so its test will skip; as root on Debian: apt-get install chromium"
else
    say "no chromium here: changing this system as root for a test (NO_SYSTEM_PACKAGES=1 prevents that):"
    say "    apt-get update; apt-get install -y --no-install-recommends chromium"
    log=$(mktemp)
    if { timeout 120 apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 300 \
        apt-get install -qq -y --no-install-recommends chromium; } >"$log" 2>&1 </dev/null; then
        say "chromium is installed"
    else
        say "chromium could not be installed, so its test will skip: $(tail -n 1 "$log")"
    fi
    rm -f "$log"
fi
exit 0
