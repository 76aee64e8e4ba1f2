// SPDX-License-Identifier: MIT
#include "server/metrics/families.h"

#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"

namespace lstm::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr double kMicrosPerSecond = 1e6;

ClientMetric Metric(MetricType type, double value, std::vector<ClientMetric::Label> labels) {
  ClientMetric metric;
  metric.label = std::move(labels);
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return metric;
}

class Sums {
 public:
  explicit Sums(const MetricSources& sources) : shards_(sources.shards) {}

  double Of(const std::function<const Count&(const ShardCounters&)>& which) const {
    uint64_t sum = 0;
    for (const ShardCounters* shard : shards_) sum += which(*shard).value();
    return static_cast<double>(sum);
  }
  double Of(Count ShardCounters::*which) const {
    return Of([which](const ShardCounters& c) -> const Count& { return c.*which; });
  }
  // `per_unit`: how many of the counters' units are one of the family's.
  template <size_t N>
  MetricFamily Histogram(const char* name, const char* help, Buckets<N> ShardCounters::*which, double per_unit) const {
    ClientMetric metric;
    auto& histogram = metric.histogram;
    uint64_t sum = 0;
    for (size_t i = 0; i <= N; ++i) {
      for (const ShardCounters* shard : shards_) histogram.sample_count += (shard->*which).count(i);
      const double bound = i < N ? static_cast<double>((shards_[0]->*which).bounds()[i]) / per_unit : std::numeric_limits<double>::infinity();
      histogram.bucket.push_back({histogram.sample_count, bound});
    }
    for (const ShardCounters* shard : shards_) sum += (shard->*which).sum();
    histogram.sample_sum = static_cast<double>(sum) / per_unit;
    return {name, help, MetricType::Histogram, {metric}};
  }

 private:
  const std::vector<const ShardCounters*>& shards_;
};

MetricFamily Rejects(const Sums& sums) {
  MetricFamily out{"lstm_rejects_total", "Requests on streams that were refused, by reason (docs/protocol.md)", MetricType::Counter, {}};
  for (int reason = v1::Reason_MIN + 1; reason <= v1::Reason_MAX; ++reason) {
    const auto which = [reason](const ShardCounters& c) -> const Count& { return c.rejects[static_cast<size_t>(reason)]; };
    out.metric.push_back(Metric(MetricType::Counter, sums.Of(which), {{"reason", absl::AsciiStrToLower(v1::Reason_Name(static_cast<v1::Reason>(reason)))}}));
  }
  return out;
}

MetricFamily Faults(const Sums& sums, uint64_t not_recovered) {
  MetricFamily out{"lstm_faults_total", "What must never happen: anything but zero is to be looked at", MetricType::Counter, {}};
  const auto add = [&](const char* kind, double value) { out.metric.push_back(Metric(MetricType::Counter, value, {{"kind", kind}})); };
  add("kernel", sums.Of(&ShardCounters::kernel_failures));
  add("session_set_aside", sums.Of(&ShardCounters::set_aside));
  add("answer_lost", sums.Of(&ShardCounters::lost_answers));
  add("session_not_recovered", static_cast<double>(not_recovered));
  return out;
}

// What callers were refused for: themselves, and their own limits.
MetricFamily Unauthenticated(const Callers& callers) {
  const Callers::Refusals refusals = callers.refusals();
  MetricFamily out{"lstm_unauthenticated_total", "Calls that were refused because their token was missing or is not known", MetricType::Counter, {}};
  out.metric.push_back(Metric(MetricType::Counter, static_cast<double>(refusals.missing), {{"token", "missing"}}));
  out.metric.push_back(Metric(MetricType::Counter, static_cast<double>(refusals.unknown), {{"token", "unknown"}}));
  return out;
}

MetricFamily OverLimits(const Sums& sums) {
  MetricFamily out{"lstm_caller_limit_refusals_total", "Sessions, and turns or whole sequences, that were refused for a limit of their caller", MetricType::Counter, {}};
  out.metric.push_back(Metric(MetricType::Counter, sums.Of(&ShardCounters::over_sessions), {{"limit", "sessions"}}));
  out.metric.push_back(Metric(MetricType::Counter, sums.Of(&ShardCounters::over_steps), {{"limit", "steps_per_second"}}));
  return out;
}

MetricFamily Versions(const ModelRepository& models) {
  MetricFamily out{"lstm_model_versions", "Versions of a model that are loaded: open to new sessions, or pinned by sessions that began on them", MetricType::Gauge, {}};
  std::map<std::string, std::pair<int, int>> counts;
  for (const ServedModelPtr& model : models.open()) ++counts[model->name].first;
  for (const ServedModelPtr& model : models.pinned()) ++counts[model->name].second;
  for (const auto& [name, count] : counts) {
    out.metric.push_back(Metric(MetricType::Gauge, count.first, {{"model", name}, {"state", "open"}}));
    out.metric.push_back(Metric(MetricType::Gauge, count.second, {{"model", name}, {"state", "pinned"}}));
  }
  return out;
}

MetricFamily Loads(const ModelRepository& models) {
  MetricFamily out{"lstm_model_loads_total", "Model versions that were loaded, or were refused", MetricType::Counter, {}};
  out.metric.push_back(Metric(MetricType::Counter, static_cast<double>(models.loads(true)), {{"result", "ok"}}));
  out.metric.push_back(Metric(MetricType::Counter, static_cast<double>(models.loads(false)), {{"result", "failed"}}));
  return out;
}

}  // namespace

MetricFamily Single(const char* name, const char* help, MetricType type, double value) { return {name, help, type, {Metric(type, value, {})}}; }

std::vector<MetricFamily> Families(const MetricSources& sources) {
  const Sums sums(sources);
  std::vector<MetricFamily> out = ProcessFamilies();
  const auto gauge = [&](const char* name, const char* help, double value) { out.push_back(Single(name, help, MetricType::Gauge, value)); };
  const auto counter = [&](const char* name, const char* help, double value) { out.push_back(Single(name, help, MetricType::Counter, value)); };
  out.push_back({"lstm_build_info", "Always 1", MetricType::Gauge, {Metric(MetricType::Gauge, 1, {{"version", LSTM_VERSION}})}});

  if (sources.serving) gauge("lstm_serving", "1 where a step went through every shard within the last second, as gRPC's health says it", sources.serving() ? 1 : 0);

  const double live = sums.Of(&ShardCounters::sessions), attached = sums.Of(&ShardCounters::attached);
  gauge("lstm_sessions_live", "Sessions in memory", live);
  gauge("lstm_sessions_idle", "Of the live ones, those that no stream holds", live > attached ? live - attached : 0);
  gauge("lstm_sessions_parked", "Sessions on the disk alone", sums.Of(&ShardCounters::parked));
  gauge("lstm_sessions_limit", "--max-sessions", static_cast<double>(sources.budget->max_sessions()));
  gauge("lstm_session_bytes", "Bytes of state, waiting inputs and kept answers", static_cast<double>(sources.budget->bytes()));
  gauge("lstm_session_bytes_limit", "--max-session-bytes", static_cast<double>(sources.budget->max_bytes()));
  gauge("lstm_streams", "Streams that are open", sums.Of(&ShardCounters::streams));
  out.push_back(Versions(*sources.models));
  out.push_back(Loads(*sources.models));

  counter("lstm_sessions_opened_total", "Sessions that were made, by Open, Fork or Import", sums.Of(&ShardCounters::opened));
  counter("lstm_sessions_closed_total", "Sessions that were closed, by their client, with its stream, or by an operator", sums.Of(&ShardCounters::closed));
  counter("lstm_sessions_expired_total", "Sessions whose time to live passed", sums.Of(&ShardCounters::expired));
  counter("lstm_sessions_unparked_total", "Sessions that came back from the disk", sums.Of(&ShardCounters::unparked));
  out.push_back(Rejects(sums));
  if (sources.callers != nullptr) out.push_back(Unauthenticated(*sources.callers));
  out.push_back(OverLimits(sums));
  out.push_back(Faults(sums, sources.not_recovered));
  counter("lstm_turns_refused_busy_total", "Turns that were refused because others would have kept them waiting for longer than --max-wait-ms", sums.Of(&ShardCounters::over_wait));
  const double turns = sums.Of(&ShardCounters::turns), predicts = sums.Of(&ShardCounters::predicts);
  counter("lstm_turns_total", "Turns of sessions that were applied", turns);
  counter("lstm_steps_total", "Time steps of these turns", sums.Of(&ShardCounters::steps));
  counter("lstm_predicts_total", "Whole sequences that were answered (Predict)", predicts);
  counter("lstm_predict_steps_total", "Time steps of these sequences", sums.Of(&ShardCounters::predict_steps));

  out.push_back(sums.Histogram("lstm_batch_rows", "Rows of each batch that was computed, one step each", &ShardCounters::rows, 1));
  counter("lstm_shared_batches_total", "Batches of which shards that had nothing to do computed a part", sums.Of(&ShardCounters::shared_batches));
  out.push_back(sums.Histogram("lstm_step_compute_seconds", "Time to compute one step of a batch", &ShardCounters::batch_us, kMicrosPerSecond));
  out.push_back(sums.Histogram("lstm_turn_queue_seconds", "From the receipt of a turn until it begins", &ShardCounters::queue_us, kMicrosPerSecond));
  out.push_back(sums.Histogram("lstm_turn_compute_seconds", "From the beginning of a turn until its last step is computed", &ShardCounters::compute_us, kMicrosPerSecond));
  out.push_back(sums.Histogram("lstm_commit_seconds", "Time to commit a turn of a stored session to memory", &ShardCounters::commit_us, kMicrosPerSecond));
  out.push_back(sums.Histogram("lstm_sync_seconds", "Time that a session with durability HOST waits for the disk", &ShardCounters::sync_us, kMicrosPerSecond));

  // By the names that existing autoscalers divide by each other.
  counter("nv_inference_request_success", "Turns and whole sequences that were answered", turns + predicts);
  double queue_us = 0;
  for (const ShardCounters* shard : sources.shards) queue_us += static_cast<double>(shard->queue_us.sum());
  counter("nv_inference_queue_duration_us", "Microseconds that turns waited before they began, all together", queue_us);
  return out;
}

}  // namespace lstm::server
