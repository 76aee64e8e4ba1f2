#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Debian's package as cpack makes it: what is in it, and that the server in it serves with the settings in it. $1: the build folder
set -euo pipefail
build=$1
for tool in dpkg-deb dpkg-shlibdeps file cpack; do
  command -v "$tool" >/dev/null || { echo "skipped: $tool is not installed"; exit 77; }
done
work=$(mktemp -d)
pid=
stop() { [[ -z $pid ]] || kill -KILL "$pid" 2>/dev/null || true; rm -rf "$work"; }
trap stop EXIT
fail() { echo "FAILED: $*"; exit 1; }
cpack -G DEB --config "$build/CPackConfig.cmake" -B "$work/cpack" >"$work/cpack.log" 2>&1 || { cat "$work/cpack.log"; fail "cpack"; }
deb=$work/cpack/lstm-server.deb root=$work/root
field() { dpkg-deb -f "$deb" "$1"; }

[[ $(field Package) == lstm-server && $(field Architecture) == "$(dpkg --print-architecture)" && $(field Section) == net ]] || fail "$(dpkg-deb -I "$deb")"
[[ $(field Version) == "$("$build/bin/lstm-server" --version)" ]] || fail "version $(field Version)"
for library in libgrpc++ libprotobuf libdnnl libssl libc6 libspdlog libprometheus-cpp; do
  [[ $(field Depends) == *$library* ]] || fail "it does not depend on $library: $(field Depends)"
done
[[ $(field Description | head -n 1) == "server for recurrent networks, "* && $(field Description | wc -l) -gt 3 && $(field Maintainer) == *@* ]] || fail "$(dpkg-deb -I "$deb")"
dpkg-deb -e "$deb" "$work/control"
[[ $(<"$work/control/conffiles") == /etc/lstm-server/config.textproto ]] || fail "conffiles"
for script in postinst prerm postrm; do
  [[ $(stat -c %a "$work/control/$script") == 755 ]] || fail "$script has mode $(stat -c %a "$work/control/$script")"
  sh -n "$work/control/$script"
done
(cd "$work" && dpkg-deb -x "$deb" root && cd root && md5sum --quiet -c "$work/control/md5sums") || fail "md5sums"

# Owned by root, written to by nobody else, and nothing where packages put nothing.
if dpkg-deb -c "$deb" | grep -vE '^(d|-)rwxr-xr-x root/root|^-rw-r--r-- root/root'; then fail "owners or modes"; fi
if (cd "$root" && find . -type f) | grep -vE '^./(usr/bin/lstm-(server|client|model)|usr/share/(lstm-server|doc/lstm-server)/.*|(usr/)?lib/systemd/system/lstm-server.service|etc/lstm-server/config.textproto)$'; then
  fail "files that do not belong there"
fi
for program in server client model; do
  "$root/usr/bin/lstm-$program" --version | grep -qx "$(field Version)" || fail "lstm-$program does not run"
  if readelf -S "$root/usr/bin/lstm-$program" | grep -q '\.symtab'; then fail "lstm-$program is not stripped"; fi
  if readelf -d "$root/usr/bin/lstm-$program" | grep -qE 'R(UN)?PATH'; then fail "lstm-$program has a path of the build"; fi
done

# The packaged settings and models, where they are unpacked; on any ports, with a state directory of ours.
unit=$(find "$root" -name lstm-server.service) config=$root/etc/lstm-server/config.textproto
[[ $(sed -n 's/^ExecStart=//p' "$unit") == "/usr/bin/lstm-server --config /etc/lstm-server/config.textproto" ]] || fail "ExecStart"
state=$(sed -n 's/^state_dir: "\(.*\)"/\1/p' "$config")
[[ $state == "/var/lib/$(sed -n 's/^StateDirectory=//p' "$unit")" ]] || fail "the unit does not make $state"
models=$root$(sed -n 's/^models: "\(.*\)"/\1/p' "$config")
own=(--config "$config" --models "$models" --state-dir "$work/state")
"$root/usr/bin/lstm-server" "${own[@]}" --check-config >"$work/out" 2>&1 || { cat "$work/out"; fail "the packaged settings"; }
: >"$work/log"
"$root/usr/bin/lstm-server" "${own[@]}" --listen 127.0.0.1:0 --http-listen "" --metrics-listen "" 2>"$work/log" &
pid=$!
until address=$(sed -n 's/.*listening on //p' "$work/log") && [[ -n $address ]]; do kill -0 "$pid" || { cat "$work/log"; fail "it does not start"; }; done
echo "the clouds are in the" | "$root/usr/bin/lstm-client" --server "$address" stream french >"$work/out" || fail "it does not answer"
[[ $(wc -l <"$work/out") == 5 ]] || fail "$(cat "$work/out")"
kill -TERM "$pid"
wait "$pid" || fail "exit code $?"
pid=

if command -v systemd-analyze >/dev/null; then
  # It looks for the program where the unit says.
  sed "s|^ExecStart=/usr/bin/|ExecStart=$root/usr/bin/|; /^Documentation=/d" "$unit" >"$work/lstm-server.service"
  systemd-analyze verify "$work/lstm-server.service" 2>"$work/verify" || { cat "$work/verify"; fail "systemd-analyze verify"; }
  if grep 'lstm-server.service' "$work/verify"; then fail "systemd-analyze verify"; fi
  # The exposure is 9.6 for a unit that says nothing of it.
  exposure=$(systemd-analyze security --offline=true "$work/lstm-server.service" --no-pager | sed -n 's/.*Overall exposure level for [^:]*: \([0-9.]*\).*/\1/p')
  awk -v e="$exposure" 'BEGIN { exit !(e != "" && e <= 2.0) }' || fail "the exposure of the unit is '$exposure', expected at most 2.0"
  echo "unit: verified, exposure $exposure"
else
  echo "systemd-analyze is not installed: the unit is not verified"
fi
echo "package: $(stat -c %s "$deb") bytes, $(field Depends | tr ',' '\n' | wc -l) dependencies, all as it should be"
