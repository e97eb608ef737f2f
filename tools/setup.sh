#!/bin/sh
# Installs what a build needs from Debian's packages; says what to do where it may not.
set -eu
need="gcc cmake ninja-build pkg-config python3 python3-pip libjansson-dev libpcre2-dev libutf8proc-dev libyaml-dev libcmocka-dev libxxhash-dev zlib1g-dev libzstd-dev"
missing=""
for p in $need; do
    case $p in
    python3|python3-pip) command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 && continue ;;
    gcc|cmake) command -v "$p" >/dev/null && continue ;;
    esac
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then run=; elif command -v sudo >/dev/null; then run=sudo; else
    echo "These Debian packages are missing:$missing" >&2
    echo "Install them as root: apt-get install$missing" >&2
    exit 1
fi
echo "installing:$missing"
$run apt-get update -qq
DEBIAN_FRONTEND=noninteractive $run apt-get install -y -qq --no-install-recommends $missing >/dev/null
