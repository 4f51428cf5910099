#!/bin/sh
# Create the virtual environment $1 with the newest Python that this project supports and this machine has.
set -eu

target=$1

supported() { # is $1 a Python of a version we support?
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1
}

chosen='' incomplete=''
for python in python3.13 python3.12 python3.11 python3; do
    supported "$python" || continue
    if "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        chosen=$python
        break
    fi
    incomplete=${incomplete:-$python}
done

# Debian and its kin ship Python without the part that creates environments.
if [ -z "$chosen" ] && [ -n "$incomplete" ]; then
    package=$("$incomplete" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "$incomplete cannot create virtual environments: installing $package."
        apt-get update --quiet --quiet
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$package"
        chosen=$incomplete
    else
        echo "$incomplete cannot create virtual environments. Please install that part, then run make again:" >&2
        echo "    sudo apt-get install $package" >&2
        exit 1
    fi
fi

if [ -z "$chosen" ]; then
    echo "No Python 3.11, 3.12 or 3.13 was found on PATH. Please install one, then run make again." >&2
    exit 1
fi

rm -rf "$target"
"$chosen" -m venv "$target"
echo "$target: $("$target/bin/python" --version)"
