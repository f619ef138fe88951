#!/bin/sh
# Install the Debian packages named as arguments that are missing; says what to do where it may not.
set -eu
if ! command -v apt-get >/dev/null; then
    echo "apt-get is not here: please install by your system's own means what Debian calls: $*" >&2
    exit 1
fi
missing=""
for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ]; then sudo=""; elif command -v sudo >/dev/null; then sudo="sudo"; else
    echo "please install as root: apt-get install$missing" >&2
    exit 1
fi
$sudo apt-get update -q >/dev/null
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q $missing >/dev/null
