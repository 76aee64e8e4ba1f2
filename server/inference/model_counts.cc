// SPDX-License-Identifier: MIT
#include "server/inference/model_counts.h"

#include <algorithm>

namespace lstm::server {
namespace {

void Sum(ModelCounts::Times& to, const ModelCounts::Times& from) {
  to.count += from.count;
  to.ns += from.ns;
}

void Put(const ModelCounts::Times& times, inference::StatisticDuration* out) {
  out->set_count(times.count);
  out->set_ns(times.ns);
}

}  // namespace

void ModelCounts::Add(const ModelCounts& other) {
  Sum(success, other.success);
  Sum(fail, other.fail);
  Sum(queue, other.queue);
  Sum(input, other.input);
  Sum(infer, other.infer);
  Sum(output, other.output);
  steps += other.steps;
  last_ms = std::max(last_ms, other.last_ms);
  for (const auto& [size, batch] : other.batches) {
    batches[size].rows += batch.rows;
    batches[size].ns += batch.ns;
  }
}

void ModelCounts::Fill(inference::ModelStatistics* out) const {
  out->set_last_inference(static_cast<uint64_t>(last_ms));
  out->set_inference_count(steps);
  inference::InferStatistics* stats = out->mutable_inference_stats();
  Put(success, stats->mutable_success());
  Put(fail, stats->mutable_fail());
  Put(queue, stats->mutable_queue());
  Put(input, stats->mutable_compute_input());
  Put(infer, stats->mutable_compute_infer());
  Put(output, stats->mutable_compute_output());
  uint64_t executions = 0;
  for (const auto& [size, batch] : batches) {
    const uint64_t count = (batch.rows + size - 1) / size;
    executions += count;
    inference::InferBatchStatistics* entry = out->add_batch_stats();
    entry->set_batch_size(size);
    entry->mutable_compute_infer()->set_count(count);
    entry->mutable_compute_infer()->set_ns(batch.ns / size);
  }
  out->set_execution_count(executions);
}

}  // namespace lstm::server
