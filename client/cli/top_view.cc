// SPDX-License-Identifier: MIT
#include "client/cli/top_view.h"

#include <algorithm>
#include <cmath>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace lstm::client {
namespace {

// A label may hold what moves a terminal's cursor.
std::string Plain(std::string text) {
  for (char& c : text) c = c > ' ' && c < 0x7f ? c : '?';
  return text.substr(0, 64);
}

std::string Bytes(double n) {
  const char* const units[] = {"B", "kB", "MB", "GB", "TB"};
  size_t unit = 0;
  for (; std::abs(n) >= 1000 && unit < 4; ++unit) n /= 1000;
  return absl::StrFormat(unit == 0 ? "%.0f %s" : "%.1f %s", n, units[unit]);
}

std::string Span(double seconds) {
  const auto s = static_cast<int64_t>(std::clamp(seconds, 0.0, 1e9));
  if (s < 120) return absl::StrCat(s, " s");
  if (s < 7200) return absl::StrCat(s / 60, " min");
  return s < 172'800 ? absl::StrCat(s / 3600, " h") : absl::StrCat(s / 86'400, " days");
}

std::string Time(double seconds) {
  if (seconds < 1e-3) return absl::StrFormat("%.0f us", seconds * 1e6);
  return seconds < 1 ? absl::StrFormat("%.2f ms", seconds * 1e3) : absl::StrFormat("%.2f s", seconds);
}

}  // namespace

std::string ShowTop(const std::string& address, const Metrics& earlier, const Metrics& now, double seconds) {
  const double up = static_cast<double>(std::time(nullptr)) - now.Sum("process_start_time_seconds");
  const bool again = now.Sum("process_start_time_seconds") != earlier.Sum("process_start_time_seconds");
  const Metrics none;
  const Metrics& before = again ? none : earlier;
  if (again) seconds = std::max(up, 1.0);
  const auto rate = [&](const char* name) { return seconds > 0 ? std::max(0.0, now.Sum(name) - before.Sum(name)) / seconds : 0; };
  std::string out, version = "?";
  for (const auto& [v, one] : now.By("lstm_build_info", "version")) version = Plain(v);
  absl::StrAppendFormat(&out, "lstm-server %s at %s  %s  up %s  cpu %.0f %%  memory %s  descriptors %.0f of %.0f\n\n", version, Plain(address),
                        !now.Has("lstm_serving") ? "" : now.Sum("lstm_serving") > 0 ? "SERVING" : "NOT SERVING", Span(up), 100 * rate("process_cpu_seconds_total"),
                        Bytes(now.Sum("process_resident_memory_bytes")), now.Sum("process_open_fds"), now.Sum("process_max_fds"));
  absl::StrAppendFormat(&out, "sessions  live %.0f of %.0f, idle %.0f, parked %.0f; %s of %s; streams %.0f\n", now.Sum("lstm_sessions_live"), now.Sum("lstm_sessions_limit"),
                        now.Sum("lstm_sessions_idle"), now.Sum("lstm_sessions_parked"), Bytes(now.Sum("lstm_session_bytes")), Bytes(now.Sum("lstm_session_bytes_limit")), now.Sum("lstm_streams"));
  absl::StrAppendFormat(&out, "          opened %.1f/s, closed %.1f/s, expired %.1f/s, back from the disk %.1f/s\n", rate("lstm_sessions_opened_total"),
                        rate("lstm_sessions_closed_total"), rate("lstm_sessions_expired_total"), rate("lstm_sessions_unparked_total"));
  absl::StrAppendFormat(&out, "rates     steps %.0f/s, turns %.0f/s, whole sequences %.0f/s of %.0f steps/s\n", rate("lstm_steps_total"), rate("lstm_turns_total"), rate("lstm_predicts_total"),
                        rate("lstm_predict_steps_total"));
  const Histogram rows(before, now, "lstm_batch_rows");
  absl::StrAppendFormat(&out, "batches   %.0f/s, rows: mean %.1f, p50 %.0f, p99 %.0f\n\n", seconds > 0 ? rows.count() / seconds : 0, rows.mean(), std::ceil(rows.Quantile(0.5)), std::ceil(rows.Quantile(0.99)));

  absl::StrAppendFormat(&out, "%-28s %10s %10s %10s\n", "latency", "p50", "p99", "mean");
  const auto latency = [&](const char* what, const char* name) {
    const Histogram h(before, now, name);
    if (h.count() > 0) absl::StrAppendFormat(&out, "%-28s %10s %10s %10s\n", what, Time(h.Quantile(0.5)), Time(h.Quantile(0.99)), Time(h.mean()));
    else absl::StrAppendFormat(&out, "%-28s %10s %10s %10s\n", what, "-", "-", "-");
  };
  latency("a turn waits", "lstm_turn_queue_seconds");
  latency("a turn is computed", "lstm_turn_compute_seconds");
  latency("one step of a batch", "lstm_step_compute_seconds");
  latency("a commit to memory", "lstm_commit_seconds");
  latency("a wait for the disk", "lstm_sync_seconds");

  std::string refused, faults, models;
  const auto rejects = before.By("lstm_rejects_total", "reason");
  for (const auto& [reason, count] : now.By("lstm_rejects_total", "reason")) {
    const auto was = rejects.find(reason);
    const double more = count - (was == rejects.end() ? 0 : was->second);
    if (more > 0) absl::StrAppendFormat(&refused, "  %s %.1f/s", Plain(reason), more / std::max(seconds, 1e-9));
  }
  for (const auto& [kind, count] : now.By("lstm_faults_total", "kind")) {
    if (count > 0) absl::StrAppendFormat(&faults, "  %s %.0f", Plain(kind), count);
  }
  for (const auto& [model, versions] : now.By("lstm_model_versions", "model")) absl::StrAppendFormat(&models, "  %s %.0f", Plain(model), versions);
  absl::StrAppend(&out, "\nrefused ", refused.empty() ? "  nothing" : refused, "\nfaults  ", faults.empty() ? "  none" : faults, "\nversions", models.empty() ? "  none" : models, "\n");
  return out;
}

}  // namespace lstm::client
