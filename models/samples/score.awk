# SPDX-License-Identifier: MIT
# Reads predictions of `telemetry` (NDJSON) and the known faults (CSV, variable `faults`), and tells each fault as it passes; with
# `watched` the score of every reading too, on one line of the terminal.
BEGIN {
  while ((getline line < faults) > 0) {
    if (split(line, f, ",") != 3 || f[1] == "start") continue
    from[++n] = f[1]; to[n] = f[2]; kind[n] = f[3]; at[n] = -1
  }
  next_fault = 1
}
{
  match($0, /"step":[0-9]+/); step = substr($0, RSTART + 7, RLENGTH - 7) + 0
  match($0, /"anomaly":\[[0-9.e-]+/); score = substr($0, RSTART + 11, RLENGTH - 11) + 0
  flagged = score > 0.5; inside = 0
  if (watched) {
    printf "\r   step %4d  anomaly %.2f  %-20s", step, score, substr("####################", 1, 20 * score)
    fflush()
  }
  for (i = 1; i <= n; i++) if (step >= from[i] && step < to[i] + 5) { inside = 1; if (flagged && at[i] < 0 && step < to[i]) at[i] = step }
  if (flagged && !inside && !was) alarms++
  was = flagged && !inside
  truth = 0
  for (i = 1; i <= n; i++) if (step >= from[i] && step < to[i]) truth = 1
  both += flagged && truth; all += flagged + truth
  if (next_fault <= n && step == to[next_fault] - 1) {
    i = next_fault++
    printf "%s   steps %4d to %4d  %-8s %s\n", watched ? "\r\033[K" : "", from[i], to[i] - 1, kind[i], at[i] < 0 ? "MISSED" : sprintf("flagged after %d steps", at[i] - from[i])
    found += at[i] >= 0
  }
}
END {
  printf "%s   %d of %d faults flagged, %d false alarms in %d steps, F1 by step %.2f\n", watched ? "\r\033[K" : "", found, n, alarms, NR, all ? 2 * both / all : 0
  if (NR == 0 || found < 0.75 * n || 2 * both < 0.8 * all) { print "   FAILED: expected at least three of four faults and an F1 of 0.8"; exit 1 }
}
