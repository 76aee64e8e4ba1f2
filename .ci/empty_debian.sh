#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Sourced by .ci/fresh and .ci/docker, after packages.sh: an empty Debian without any registry.

# empty_debian SUITE DIR: DIR/SUITE.tar, a minimal root made with mmdebstrap from this machine's own package sources and apt
# settings with the name of the suite replaced (no mirror is named anywhere); DIR/apt.conf, those settings. Kept once made.
empty_debian() {
  local suite=$1 dir=$2
  [[ ! -e $dir/$suite.tar ]] || return 0
  say "making an empty $suite"
  apt-config dump | grep -E '^Acquire::' >"$dir/apt.conf" || true
  # Not all of these files need be there.
  { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
    sed -E "s/\\b(bookworm|trixie)\\b/$suite/g" |
    mmdebstrap --quiet --mode=root --variant=minbase --format=tar --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
      --aptopt="$dir/apt.conf" --dpkgopt=force-unsafe-io "$suite" "$dir/$suite.tar.new" -
  mv "$dir/$suite.tar.new" "$dir/$suite.tar"
}
