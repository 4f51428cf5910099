#!/bin/sh
# Create the virtual environment $1 with the Python $2; without one, with the newest that this machine has: on PATH or
# among pyenv's versions, released, and with what a relay needs of the standard library.
set -eu

target=$1
wanted=${2:-}
minimum="3, 11"

# Print "MAJOR.MINOR.PATCH whole|incomplete", or nothing where this project does not run. Locked dependencies have no
# wheels for prereleases and for builds without the interpreter lock.
probe() {
    "$1" - <<END 2>/dev/null || true
import sys, sysconfig
if sys.version_info >= ($minimum) and sys.version_info.releaselevel == "final":
    import ssl
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        try:
            import ensurepip, venv
            whole = "whole"
        except ImportError:
            whole = "incomplete"
        print("%d.%d.%d" % sys.version_info[:3], whole)
END
}

candidates() {
    if [ -n "$wanted" ]; then
        command -v -- "$wanted" || true
        return
    fi
    (
        IFS=:
        for folder in $PATH; do
            ls -d "$folder"/python3 "$folder"/python3.[0-9] "$folder"/python3.[0-9][0-9] 2>/dev/null || true
        done
    )
    ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3 2>/dev/null || true
}

# Of equal versions the first on PATH: `sort -s` keeps their order.
found=$(candidates | while read -r python; do
    version=$(probe "$python")
    [ -z "$version" ] || echo "$version $python"
done | sort -s -r -V -k 1,1)
chosen=$(echo "$found" | sed -n 's/^[^ ]* whole //p' | head -n 1)
incomplete=$(echo "$found" | sed -n 's/^[^ ]* incomplete //p' | head -n 1)

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
    if [ -n "$wanted" ]; then
        echo "PYTHON=$wanted is no released CPython 3.11 or newer with the module ssl." >&2
    else
        echo "No Python 3.11 or newer was found, neither on PATH nor among pyenv's versions." >&2
        echo "Please install one, then run make again; or name it: make PYTHON=/path/to/python3.13 ..." >&2
    fi
    exit 1
fi

rm -rf "$target"
"$chosen" -m venv "$target"
echo "$target: $("$target/bin/python" --version) ($chosen)"
