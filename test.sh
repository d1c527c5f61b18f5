#!/bin/sh
# Runs everything that has to be green: formatting, vet, staticcheck, the builds for all platforms, and the tests with
# the race detector. Installs the programs that the tests talk to where it can (Debian or Ubuntu, as root), and names
# them where it cannot. With CI=true a test that misses a program fails instead of being skipped.
set -eu
cd "$(dirname "$0")"

# The packages of Debian and Ubuntu whose programs are not there.
missing() {
    [ -x /usr/sbin/sshd ] || echo openssh-server
    command -v ssh >/dev/null || echo openssh-client
    command -v plink >/dev/null || echo putty-tools
    command -v dbclient >/dev/null || echo dropbear-bin
    /usr/bin/python3 -c 'import paramiko' 2>/dev/null || echo python3-paramiko
    /usr/bin/python3 -W ignore -c 'import asyncssh' 2>/dev/null || echo python3-asyncssh
    command -v node >/dev/null || echo nodejs
    command -v npm >/dev/null || echo npm
    command -v gnome-keyring-daemon >/dev/null || echo gnome-keyring
    command -v dbus-run-session >/dev/null || echo dbus-daemon
    command -v gdbus >/dev/null || echo libglib2.0-bin
    command -v gdb >/dev/null || echo gdb
    command -v busybox >/dev/null || echo busybox
    command -v git >/dev/null || echo git
    command -v ps >/dev/null || echo procps
    command -v unshare >/dev/null || echo util-linux
    { command -v chattr && [ -x /usr/sbin/mkfs.ext4 ]; } >/dev/null || echo e2fsprogs
}

step() { printf '== %s\n' "$*"; }

packages=$(missing | tr '\n' ' ')
if [ -n "$packages" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        step "installing $packages"
        # The tests start their own servers: nothing of the system's shall run.
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends $packages >/dev/null
    else
        echo "some tests need programs that are not installed" >&2
        echo "hint: sudo apt-get install $packages" >&2
    fi
fi

# The clients that come from npm are kept outside of the checkout, in a directory named after their lock file, which
# holds the hash of each.
node=internal/e2e/testdata/node
clients="${XDG_CACHE_HOME:-$HOME/.cache}/vast-ssh-tests/node-$(cksum <$node/package-lock.json | tr ' ' -)"
if [ ! -d "$clients" ] && command -v npm >/dev/null; then
    step "npm ci"
    mkdir -p "$(dirname "$clients")"
    new=$(mktemp -d "$clients.XXXXXX")
    cp $node/package.json $node/package-lock.json "$new"
    if (cd "$new" && npm ci --ignore-scripts --omit=optional --no-audit --no-fund --no-update-notifier --silent); then
        mv "$new" "$clients"
    else
        rm -rf "$new"
        echo "the clients of npm could not be installed" >&2
    fi
fi
export VAST_SSH_TEST_NODE_MODULES="$clients/node_modules"

step "go version"
go version

step "go generate"
go generate vast-ssh/internal/wipe/deploy

step "gofmt"
unformatted=$(gofmt -l agent bench cmd config internal known)
if [ -n "$unformatted" ]; then
    echo "error: gofmt would change:" $unformatted >&2
    exit 1
fi

step "go vet"
go vet ./...

step "staticcheck"
go tool staticcheck ./...

step "builds"
for os in linux darwin; do
    for arch in amd64 arm64; do
        CGO_ENABLED=0 GOOS=$os GOARCH=$arch go build -trimpath -o /dev/null ./cmd/vast-ssh
        CGO_ENABLED=0 GOOS=$os GOARCH=$arch go build -trimpath -o /dev/null ./cmd/vast-agent
    done
done

step "tests"
# Many tests wait for others' timeouts: more packages at a time than there are cores.
go test -race -timeout 12m -p "$(($(getconf _NPROCESSORS_ONLN) + 2))" ./...
