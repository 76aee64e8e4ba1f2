// SPDX-License-Identifier: MIT
#include <string.h>

#include <algorithm>
#include <utility>

#include "server/shard/shard.h"

// What a turn is computed from and into: recycled, so that a warm shard allocates nothing for it.
namespace lstm::server {
namespace {

constexpr size_t kSpareRecords = 4096;
constexpr size_t kSpareRows = 256;
constexpr size_t kKeptBufferBytes = 64u << 10;  // a recycled record does not hold on to more

}  // namespace

TurnRecordPtr Shard::TakeRecord() {
  if (spare_records_.empty()) return std::make_unique<TurnRecord>();
  TurnRecordPtr record = std::move(spare_records_.back());
  spare_records_.pop_back();
  return record;
}

void Shard::RecycleRecord(TurnRecordPtr record) {
  budget_->GiveBytes(std::exchange(record->charged_bytes, 0));
  if (spare_records_.size() >= kSpareRecords) return;
  record->session = nullptr;
  record->answer = {};
  record->answer_memory.clear();
  record->steps = record->batch_rows = 0;
  if (record->input.capacity() > kKeptBufferBytes) record->input = {};
  if (record->answer_memory.capacity() > kKeptBufferBytes) record->answer_memory = {};
  spare_records_.push_back(std::move(record));
}

void Shard::BindBuffers(TurnRecord* record, const std::vector<uint32_t>& selected) {
  record->inputs.clear();
  const std::byte* input = record->input.data();
  for (const auto& port : record->program->inputs()) {
    record->inputs.push_back(input);
    input += record->steps * port.step_bytes;
  }
  const auto& ports = record->program->outputs();
  record->outputs.assign(selected.empty() ? 0 : size_t{*std::max_element(selected.begin(), selected.end())} + 1, nullptr);
  std::byte* answer = record->answer.data();
  for (uint32_t o : selected) {
    record->outputs[o] = answer;
    answer += record->answer_steps * ports[o].step_bytes;
  }
}

void Shard::TakeScratch(TurnRecord* record, size_t i) {
  const size_t size = record->program->state_floats();
  std::vector<core::AlignedBuffer<float>>& spare = spare_rows_[size];
  if (spare.empty()) {
    record->rows[i] = core::AlignedBuffer<float>(size);
  } else {
    record->rows[i] = std::move(spare.back());
    spare.pop_back();
  }
  record->scratch[i] = record->rows[i].data();
}

void Shard::GiveScratch(TurnRecord* record) {
  for (core::AlignedBuffer<float>& row : record->rows) {
    if (row.empty()) continue;
    std::vector<core::AlignedBuffer<float>>& spare = spare_rows_[row.size()];
    explicit_bzero(row.data(), row.size() * sizeof(float));  // a session's numbers, which neither the next one nor the heap gets
    if (spare.size() < kSpareRows) spare.push_back(std::move(row));
    row = {};
  }
}

}  // namespace lstm::server
