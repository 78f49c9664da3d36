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
