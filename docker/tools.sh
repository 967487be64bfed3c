#!/bin/sh
# Installs what `make dev` and `make test` stand on and this machine lacks: a C linker, Postgres (15 or later),
# nats-server (2.9 or later); with the argument `test` also a Chromium, for the test of a web page. By apt, as root or with
# sudo, without questions; elsewhere it says what to install.
# What apt starts by itself (a cluster on 5432, a NATS service) is left running and is not used.
set -eu

missing=""
have() { command -v "$1" >/dev/null 2>&1; }

have cc || missing="$missing gcc libc6-dev"

postgres=""
for place in $(echo "$PATH" | tr ':' ' ') /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin \
    /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin; do
    if [ -x "$place/initdb" ] && [ -x "$place/postgres" ]; then
        major=$("$place/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
        if [ "${major:-0}" -ge 15 ]; then postgres=$place; fi
    fi
done
[ -n "$postgres" ] || missing="$missing postgresql"

have nats-server || [ -x /usr/sbin/nats-server ] || [ -n "${TIDEGATE_NATS_SERVER:-}" ] || missing="$missing nats-server"

if [ "${1:-}" = test ] && [ -z "${BROWSER_PROGRAM:-}" ] && [ -z "${NO_BROWSER:-}" ]; then
    have chromium || have chromium-browser || have google-chrome || have google-chrome-stable \
        || [ -x "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" ] || missing="$missing chromium"
fi

[ -n "$missing" ] || exit 0

if ! have apt-get; then
    echo "These are missing:$missing" >&2
    echo "Install a C compiler, PostgreSQL 15 or later and nats-server 2.9 or later with this system's package manager," >&2
    echo "so that cc, initdb, postgres and nats-server are on the PATH, and try again." >&2
    echo "For the tests also Chromium or Chrome (BROWSER_PROGRAM=/path/to/it, or NO_BROWSER=1 to go without)." >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=""
elif have sudo; then
    as_root="sudo"
else
    echo "These are missing:$missing" >&2
    echo "As root: apt-get update && apt-get install$missing" >&2
    exit 1
fi
echo "Installing:$missing"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -q
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
