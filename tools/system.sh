#!/bin/sh
# Makes sure that what pip cannot install is there: usage `tools/system.sh PYTHON`.
# On Debian and its relatives, as root, missing packages are installed; everywhere else the message names them.
set -eu

python=$1
here=$(cd "$(dirname "$0")/.." && pwd)

fail() {
    printf 'upshift: %s\n' "$@" >&2
    exit 1
}

has_sqlite() {
    out=$(mktemp)
    printf '#include <sqlite3.h>\nint main(void) { return sqlite3_libversion_number() == 0; }\n' |
        cc -x c - -lsqlite3 -o "$out" 2>/dev/null
    status=$?
    rm -f "$out"
    return $status
}

missing_packages() {
    command -v "$python" >/dev/null || printf 'python3 '
    # Only Debian splits ensurepip off; an interpreter that is not there yet comes without it as well.
    "$python" -c 'import ensurepip, venv' 2>/dev/null || printf 'python3-venv '
    command -v cc >/dev/null || printf 'gcc libc6-dev '
    has_sqlite || printf 'libsqlite3-dev '
}

missing=$(missing_packages | sed "s/ *$//")
if [ -n "$missing" ]; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        echo "upshift: installing $missing"
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086  # a list of words
        apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
            fail "apt-get could not install: $missing"
        missing=$(missing_packages)
        [ -z "$missing" ] || fail "still missing after apt-get: $missing (interpreter: $python)"
    elif command -v apt-get >/dev/null; then
        fail "missing system packages; run:  sudo apt-get install $missing"
    else
        fail "missing (named as on Debian; find your system's equivalent): $missing" \
            "libsqlite3-dev = header and library of SQLite (sqlite-devel, sqlite). A build that does without it," \
            "for wheels only: maturin build --features bundled-sqlite"
    fi
fi

# A browser for the tests of the dashboard, which are skipped without one: nice to have, so nothing fails for it.
has_browser() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null
}
if ! has_browser && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "upshift: installing chromium (tests of the dashboard)"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 ||
        echo "upshift: no chromium here; tests of the dashboard in a browser will be skipped"
fi

"$python" - <<'PY' || exit 1
import sys

if sys.implementation.name != "cpython" or not (3, 9) <= sys.version_info[:2] <= (3, 14):
    version = "%s %d.%d" % ((sys.implementation.name,) + sys.version_info[:2])
    sys.exit("upshift: needs CPython 3.9 to 3.14, this is %s; choose one with  make PYTHON=python3.12 …" % version)
PY

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/Cargo.toml")
command -v cargo >/dev/null && command -v rustc >/dev/null ||
    fail "no Rust toolchain; install Rust $wanted or newer (https://rustup.rs) and run make again"
found=$(rustc --version | cut -d' ' -f2)
[ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n1)" = "$wanted" ] ||
    fail "Rust $found is too old, $wanted is needed; with rustup:  rustup update stable"
