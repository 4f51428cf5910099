#!/bin/sh
# Install Chromium for the browser tests if that is possible without asking anyone: its headless shell, which takes half
# the CPU time, or all of it. Never fails: without a browser those tests are skipped, and say so.
set -u

if command -v chromium-headless-shell >/dev/null; then
    exit 0
fi

give_up() {
    command -v chromium >/dev/null || echo "No chromium on PATH and $1: the browser tests will be skipped." >&2
    exit 0
}

command -v apt-get >/dev/null || give_up "no apt-get to install it with"
if [ "$(id -u)" -eq 0 ]; then
    as_root() { env "$@"; }
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root() { sudo -n env "$@"; }
else
    give_up "no right to install it (sudo apt-get install chromium-headless-shell)"
fi

echo "Installing chromium for the browser tests."
as_root apt-get update --quiet --quiet || give_up "apt-get update failed"
install() {
    as_root DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --quiet --no-install-recommends "$1"
}
install chromium-headless-shell || command -v chromium >/dev/null || install chromium || give_up "apt-get could not install it"
