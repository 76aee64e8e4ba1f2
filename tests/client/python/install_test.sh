#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The Python library as README.md installs it, from a copy of its folder, used from elsewhere. $1: lstm-server
set -euo pipefail
server=$(realpath "$1") models=$(realpath models/repository)
work=$(mktemp -d)
pid=
stop() { [[ -z $pid ]] || kill -KILL "$pid" 2>/dev/null || true; rm -rf "$work"; }
trap stop EXIT
cp -r client/python "$work/source"
cd "$work"
/usr/bin/python3 -m venv --system-site-packages .venv
PIP_NO_INDEX=1 .venv/bin/python -m pip install --quiet --no-build-isolation --no-deps ./source
rm -rf source
touch log  # the server, once it has begun, says where it listens
"$server" --listen 127.0.0.1:0 --models "$models" 2>log &
pid=$!
address=
until [[ -n $address ]]; do
  kill -0 "$pid" || { cat log; exit 1; }
  address=$(sed -n 's/.*listening on //p' log | head -n 1)
done
.venv/bin/python - "$address" <<'PY'
import sys
import lstm
assert "/.venv/" in lstm.__file__, lstm.__file__
with lstm.connect(sys.argv[1]) as client, client.session("french") as s:
    p = s.step_text("i grew up in japan . the clouds are in the")
    assert s.vocabulary.decode(p[-1].argmax()) == "sky"
PY
echo "install: all as it should be"
