#!/bin/sh
# Runs everything that has to be green: formatting, vet, staticcheck, the builds for all platforms, and the tests with
# the race detector. Installs the programs that the tests talk to where it can (Debian or Ubuntu, as root), and names
# them where it cannot. With CI=true a test that misses a program fails instead of being skipped.
set -eu
cd "$(dirname "$0")"

packages='openssh-server openssh-client putty-tools dropbear-bin python3-paramiko gnome-keyring dbus-daemon git procps'

missing() {
    [ -x /usr/sbin/sshd ] || echo openssh-server
    command -v ssh >/dev/null || echo openssh-client
    command -v plink >/dev/null || echo putty-tools
    command -v dbclient >/dev/null || echo dropbear-bin
    /usr/bin/python3 -c 'import paramiko' 2>/dev/null || echo python3-paramiko
    command -v gnome-keyring-daemon >/dev/null || echo gnome-keyring
    command -v dbus-run-session >/dev/null || echo dbus-daemon
    command -v git >/dev/null || echo git
    command -v ps >/dev/null || echo procps
}

step() { printf '== %s\n' "$*"; }

if [ -n "$(missing)" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        step "installing" $(missing)
        # The tests start their own servers: nothing of the system's shall run.
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends $packages >/dev/null
    else
        echo "some tests need programs that are not installed: $(missing | tr '\n' ' ')" >&2
        echo "hint: sudo apt-get install $packages" >&2
    fi
fi

step "go version"
go version

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
go test -race -timeout 12m ./...
