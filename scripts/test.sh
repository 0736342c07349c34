#!/usr/bin/env bash
# Installs what a new Debian machine lacks for the tests, as far as it may, then runs every test.
# Without root (or apt) it installs nothing; the tests then name each part they skip. With CI set nothing is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
export COX_TEST_CACHE="${COX_TEST_CACHE:-${HOME:-/root}/.cache/coxswain}"

# Debian package -> a file that shows it is there
declare -A PACKAGES=(
  [containerd]=/usr/bin/containerd
  [runc]=/usr/sbin/runc
  [containernetworking-plugins]=/usr/lib/cni/bridge
  [iptables]=/usr/sbin/iptables
  [iproute2]=/usr/sbin/ip
  [mosquitto]=/usr/sbin/mosquitto
  [docker-registry]=/usr/bin/docker-registry
  [skopeo]=/usr/bin/skopeo
  [umoci]=/usr/bin/umoci
  [busybox-static]=/bin/busybox
  [python3-venv]=/usr/share/doc/python3-venv
  [xz-utils]=/usr/bin/xz
  [gpgv]=/usr/bin/gpgv
  [curl]=/usr/bin/curl
  [openssl]=/usr/bin/openssl
  [perl-base]=/usr/bin/perl
  [git]=/usr/bin/git
  [ca-certificates]=/etc/ssl/certs/ca-certificates.crt
)
lacking=()
for package in "${!PACKAGES[@]}"; do [ -e "${PACKAGES[$package]}" ] || lacking+=("$package"); done
if [ ${#lacking[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing: ${lacking[*]}"
    # Tests start their own daemons on free ports; Debian must not start its ones.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
      printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
      chmod +x /usr/sbin/policy-rc.d
      trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${lacking[@]}" >/dev/null
  else
    echo "not installed (needs root and apt-get): ${lacking[*]}; the tests that need them are skipped by name"
  fi
fi

for version in 1.32:trixie 1.36:sid; do
  target="$COX_TEST_CACHE/kubectl-${version%%:*}"
  [ -x "$target/usr/bin/kubectl" ] || bash scripts/fetch-deb.sh "${version##*:}" "$target" kubectl ||
    echo "kubectl ${version%%:*} could not be fetched; the tests that need it are skipped by name"
done

bash scripts/fetch-clients.sh || echo "not every client could be had; the tests that need those are skipped by name"

npm run -s build
npm run -s typecheck
npm run -s lint

results=$(mktemp)
status=0
npx --no-install vitest run --reporter=default --reporter=json --outputFile.json="$results" "$@" || status=$?
node -e '
  const r = JSON.parse(require("fs").readFileSync(process.argv[1], "utf8"));
  console.log(`${r.numPassedTests} passed, ${r.numFailedTests} failed, ${r.numPendingTests + (r.numTodoTests ?? 0)} skipped`);
  if (r.numPassedTests === 0) process.exit(1);
' "$results" || status=1
rm -f "$results"
exit "$status"
