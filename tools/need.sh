# Sourced by the scripts here: what a machine lacks is installed by package name where we are root and there is apt, else named.
need() { # command or absolute path of a program, Debian package that has it
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "$1 is missing: installing package $2"
        apt-get install -y -q "$2" >/dev/null || { apt-get update -q >/dev/null && apt-get install -y -q "$2" >/dev/null; } || true
        command -v "$1" >/dev/null && return
    fi
    echo "$1 is missing: install package $2 (Debian's name) and run this again" >&2
    exit 1
}

# A Python with modules, in an environment of its own beside the build (or REGROUP_PYTHON, which is left as it is).
need_python() { # module:PyPI package ...
    local python=${REGROUP_PYTHON:-${CARGO_TARGET_DIR:-target}/python/bin/python} pair missing=()
    if [ -z "${REGROUP_PYTHON:-}" ] && [ ! -x "$python" ]; then
        need python3 python3
        python3 -m venv "${python%/bin/python}" >/dev/null 2>&1 || { apt-get install -y -q python3-venv >/dev/null && python3 -m venv "${python%/bin/python}"; } || {
            echo "an environment for Python can't be made: install package python3-venv (Debian's name) and run this again" >&2
            exit 1
        }
    fi
    for pair in "$@"; do
        "$python" -c "import ${pair%%:*}" 2>/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} = 0 ] && return
    echo "Python modules are missing: installing ${missing[*]}"
    "$python" -m pip install --quiet --disable-pip-version-check "${missing[@]}" || {
        echo "Python modules are missing: $python -m pip install ${missing[*]}" >&2
        exit 1
    }
}
