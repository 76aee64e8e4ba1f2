# SPDX-License-Identifier: MIT
# Reads predictions of `french` (NDJSON) for two sessions as they come, and shows each step of both side by side: the word that
# went in, and the likeliest next one. Variables: `vocabulary` (a file, a word a line), `texts` (two files, in the sessions' order).
function column(word, next_word, p) { return sprintf("%-10s -> %-10s %3.0f %%", word, next_word, 100 * p) }
BEGIN {
  count = next_step = 0  # as subscripts too
  while ((getline line < vocabulary) > 0) words[count++] = line
  split(texts, text, " ")
  for (i = 1; i <= 2; i++) {
    length_of[i] = 0
    name = text[i]; sub(/.*\//, "", name); sub(/\.txt$/, "", name)
    number[name] = i
    while ((getline line < text[i]) > 0) { n = split(line, part, " "); for (k = 1; k <= n; k++) said[i, length_of[i]++] = part[k] }
  }
}
{
  match($0, /"session":"[^"]*"/); i = number[substr($0, RSTART + 11, RLENGTH - 12)]
  match($0, /"step":[0-9]+/); step = substr($0, RSTART + 7, RLENGTH - 7) + 0
  match($0, /\[.*\]/); n = split(substr($0, RSTART + 1, RLENGTH - 2), p, ",")
  best = 1
  for (k = 2; k <= n; k++) if (p[k] + 0 > p[best] + 0) best = k
  shown[i, step] = column(said[i, step], words[best - 1], p[best])
  while (next_step < length_of[1] || next_step < length_of[2]) {  # a line as soon as both sessions have come so far
    for (s = 1; s <= 2; s++) if (next_step < length_of[s] && !((s, next_step) in shown)) next
    printf "   %3d  %-32s  %s\n", next_step, shown[1, next_step], shown[2, next_step]
    next_step++
    fflush()
  }
}
