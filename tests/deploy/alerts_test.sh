#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The alerts by promtool: they can be read, and each fires when it is to and says so. Skipped (77) without promtool.
set -euo pipefail
command -v promtool >/dev/null || { echo "skipped: promtool is not installed (Debian's package prometheus)"; exit 77; }
promtool check rules docker/prometheus/alerts.yaml
(cd docker/prometheus && promtool check config prometheus.yml)
promtool test rules tests/deploy/alerts_test.yaml
# Each alert has a test and is told of in the documents, and the other way round.
named() { grep -Eoh '\bLstm[A-Z][A-Za-z]+' "$1" | sort -u; }
for file in tests/deploy/alerts_test.yaml docs/operations.md; do
  diff <(sed -n 's/.*alert: //p' docker/prometheus/alerts.yaml | sort) <(named "$file") || { echo "alerts: $file has others"; exit 1; }
done
