#!/bin/sh
# Builds vast-ssh and vast-agent from this checkout and installs them for this user. Asks for no password and edits no
# file of yours.
set -eu

usage() {
    cat <<'EOF'
usage: sh install.sh [--prefix DIR] [--demo] [--dry-run] [--uninstall]

  --prefix DIR   install to DIR/bin (default: ~/.local)
  --demo         run "vast-ssh demo" afterwards: a login on a simulated account
  --dry-run      say what would be done
  --uninstall    remove the two programs; keys, pins and configuration stay
EOF
}

fail() {
    echo "error: $1" >&2
    [ -z "${2-}" ] || echo "hint: $2" >&2
    exit "${3-1}"
}

prefix=${HOME:-}/.local demo=no dry=no uninstall=no
[ -n "${HOME:-}" ] || prefix=
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) [ $# -ge 2 ] || fail "--prefix needs a directory" "sh install.sh --help" 2; prefix=$2; shift ;;
        --prefix=*) prefix=${1#--prefix=} ;;
        --demo) demo=yes ;;
        --dry-run) dry=yes ;;
        --uninstall) uninstall=yes ;;
        -h | --help) usage; exit 0 ;;
        *) fail "unknown option $1" "sh install.sh --help" 2 ;;
    esac
    shift
done
case $prefix in
    /*) ;;
    '') fail "there is no directory to install to" "sh install.sh --prefix /some/directory" 2 ;;
    *) prefix=$(pwd)/$prefix ;;
esac
bin=$prefix/bin
cd "$(dirname "$0")"

run() {
    if [ "$dry" = yes ]; then
        printf 'would run:'
        for word in "$@"; do printf " '%s'" "$word"; done
        echo
    else
        "$@"
    fi
}

if [ "$uninstall" = yes ]; then
    if [ ! -e "$bin/vast-ssh" ] && [ ! -e "$bin/vast-agent" ]; then
        echo "vast-ssh is not installed in $bin"
        exit 0
    fi
    if [ -x "$bin/vast-agent" ]; then
        # A service that was not installed is fine, and so is an agent that is not running or will not stop: it goes with the
        # session.
        if [ "$dry" = yes ]; then
            run "$bin/vast-agent" install --uninstall
            run "$bin/vast-agent" stop
        else
            "$bin/vast-agent" install --uninstall >/dev/null 2>&1 || true
            "$bin/vast-agent" stop 2>/dev/null || true
        fi
    fi
    run rm -f "$bin/vast-ssh" "$bin/vast-agent"
    [ "$dry" = yes ] || cat <<EOF
removed vast-ssh and vast-agent from $bin
your key and pins stay in ~/.ssh/vast-ssh; ~/.local/state/vast-ssh and ~/.cache/vast-ssh may be deleted
remove the line "Include ~/.ssh/vast-ssh/config" from ~/.ssh/config if you have added it
EOF
    exit 0
fi

command -v go >/dev/null || fail "there is no Go on this machine" "install Go 1.21 or later: https://go.dev/dl/"

stage=$bin/.vast-ssh.$$
trap 'rm -rf "$stage"' EXIT
trap 'exit 1' HUP INT TERM
run mkdir -p "$stage"
# The programs that vast-ssh brings to a machine that it wipes; they are built into it.
run go generate vast-ssh/internal/wipe/deploy
for program in vast-ssh vast-agent; do
    run env CGO_ENABLED=0 go build -trimpath -o "$stage/$program" "./cmd/$program"
done
# A rename replaces a program that is running without disturbing it.
for program in vast-agent vast-ssh; do
    run mv -f "$stage/$program" "$bin/$program"
done
[ "$dry" = yes ] || echo "installed vast-ssh and vast-agent in $bin"

case :$PATH: in
    *:"$bin":*) ;;
    *) echo "add it to PATH, for example in ~/.profile:  export PATH=\"$bin:\$PATH\"" ;;
esac

if [ "$demo" = yes ]; then
    run "$bin/vast-ssh" demo
fi
