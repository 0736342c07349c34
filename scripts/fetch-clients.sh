#!/usr/bin/env bash
# Makes what the tests with foreign clients need, below $COX_TEST_CACHE/clients: Helm and an operator with controller-runtime,
# both built from test/clients/go, and a Python with the Kubernetes client. Does again only what changed.
# Go is this machine's or, where there is none, Debian's, which then fetches the version that go.mod asks for; every module
# is checked against go.sum or Go's checksum database.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${COX_TEST_CACHE:-${HOME:-/root}/.cache/coxswain}"
out=$cache/clients
mkdir -p "$out"
status=0

# made <what> <files...>: whether this was made from these files already
made() { [ "$(cat "$out/$1.sum" 2>/dev/null)" = "$(cat "${@:2}" | sha256sum)" ]; }
note() { cat "${@:2}" | sha256sum >"$out/$1.sum"; }

find_go() {
  for go in "$(command -v go || true)" /usr/local/go/bin/go "$cache/go/usr/lib/go-1.24/bin/go"; do
    # Older ones cannot fetch the version that they need.
    if [ -x "$go" ] && [ "$("$go" env GOVERSION | sed -E 's/^go1\.([0-9]+).*/\1/')" -ge 21 ]; then
      echo "$go"
      return
    fi
  done
  bash scripts/fetch-deb.sh trixie "$cache/go" golang-1.24-go golang-1.24-src >&2
  echo "$cache/go/usr/lib/go-1.24/bin/go"
}

sources=(test/clients/go/go.mod test/clients/go/go.sum test/clients/go/operator/*.go)
if ! made go "${sources[@]}"; then
  if go=$(find_go) && (
    cd test/clients/go
    export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOTOOLCHAIN=${GOTOOLCHAIN:-auto}
    "$go" build -ldflags '-s -w' -o "$out/" helm.sh/helm/v3/cmd/helm ./operator
  ); then
    note go "${sources[@]}"
  else
    echo "fetch-clients.sh: Helm and the operator could not be built" >&2
    status=1
  fi
fi

requirements=test/clients/python/requirements.txt
if ! made python "$requirements"; then
  if rm -rf "$out/venv" && python3 -m venv "$out/venv" && "$out/venv/bin/pip" install -q -r "$requirements"; then
    note python "$requirements"
  else
    rm -rf "$out/venv"
    echo "fetch-clients.sh: the Python client could not be installed" >&2
    status=1
  fi
fi
exit "$status"
