// SPDX-License-Identifier: MIT
#include "bench/onnxruntime_model.h"

#include <google/protobuf/text_format.h>
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <deque>
#include <fstream>
#include <sstream>

#include "bench/machine_limits.h"
#include "bench/row.h"
#include "core/import/manifest_import.h"
#include "core/program/step_program.h"
#include "lstm/manifest/v1/manifest.pb.h"
#include "tests/support/random_model.h"

namespace lstm::bench {
namespace {

std::string ReadAll(const std::string& path) {
  std::ostringstream out;
  out << std::ifstream(path).rdbuf();
  return out.str();
}

// The file in ONNX Runtime, one session's step: inputs of the sizes and constants that the manifest names, others random. What the state
// is does not matter to its cost.
class RuntimeModel {
 public:
  RuntimeModel(Ort::Env& env, const std::string& directory) {
    manifest::v1::Manifest manifest;
    google::protobuf::TextFormat::ParseFromString(ReadAll(directory + "/model.textproto"), &manifest);
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    options.SetInterOpNumThreads(1);
    options.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
    const std::string file = manifest.onnx().file().empty() ? "model.onnx" : manifest.onnx().file();
    session_ = Ort::Session(env, (directory + "/" + file).c_str(), options);
    Ort::AllocatorWithDefaultOptions allocator;
    for (size_t i = 0; i < session_.GetInputCount(); ++i) {
      names_.push_back(session_.GetInputNameAllocated(i, allocator).get());
      AddInput(manifest, names_.back(), session_.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo());
    }
    for (size_t i = 0; i < session_.GetOutputCount(); ++i) output_names_.push_back(session_.GetOutputNameAllocated(i, allocator).get());
    for (const std::string& name : names_) inputs_.push_back(name.c_str());
    for (const std::string& name : output_names_) outputs_.push_back(name.c_str());
  }
  void Step() { session_.Run(Ort::RunOptions{nullptr}, inputs_.data(), values_.data(), values_.size(), outputs_.data(), outputs_.size()); }

 private:
  void AddInput(const manifest::v1::Manifest& manifest, const std::string& name, const Ort::ConstTensorTypeAndShapeInfo& info) {
    std::vector<int64_t> shape = info.GetShape();
    double constant = 0;
    for (const auto& input : manifest.onnx().input()) {
      if (input.name() != name) continue;
      if (input.shape_size() > 0) shape.assign(input.shape().begin(), input.shape().end());
      if (input.constant_size() > 0) constant = input.constant(0);
    }
    size_t count = 1;
    for (int64_t& size : shape) count *= static_cast<size_t>(size = std::max<int64_t>(size, 1));
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    if (info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) {
      auto& values = whole_.emplace_back(count, static_cast<int64_t>(constant));
      values_.push_back(Ort::Value::CreateTensor<int64_t>(memory, values.data(), count, shape.data(), shape.size()));
      return;
    }
    auto& values = floats_.emplace_back(count);
    testing::Random random(1);
    for (float& v : values) v = random.Uniform(0.1f);
    values_.push_back(Ort::Value::CreateTensor<float>(memory, values.data(), count, shape.data(), shape.size()));
  }

  Ort::Session session_{nullptr};
  std::deque<std::vector<float>> floats_;
  std::deque<std::vector<int64_t>> whole_;
  std::vector<std::string> names_, output_names_;
  std::vector<const char*> inputs_, outputs_;
  std::vector<Ort::Value> values_;
};

// The same directory as the server runs it: a step of `rows` sessions.
class OurModel {
 public:
  OurModel(std::shared_ptr<const core::StepProgram> program, size_t rows) : program_(std::move(program)), scratch_(program_->MakeScratch()) {
    testing::Random random(1);
    for (size_t r = 0; r < rows; ++r) {
      One& one = rows_.emplace_back();
      for (auto& state : one.state) {
        state = core::AlignedBuffer<float>(program_->state_floats());
        std::copy(program_->initial_state().begin(), program_->initial_state().end(), state.data());
      }
      for (const auto& port : program_->inputs()) {
        auto& values = one.inputs.emplace_back(port.step_bytes / sizeof(float));
        for (float& v : values.span()) v = port.dtype == core::DType::kF32 ? random.Uniform(0.1f) : 0.0f;
        one.in.push_back(reinterpret_cast<const std::byte*>(values.data()));
      }
      for (size_t i = 0; i < program_->outputs().size(); ++i) {
        const bool wanted = i < program_->declared_outputs();
        auto& values = one.outputs.emplace_back(wanted ? program_->outputs()[i].step_bytes / sizeof(float) : 0);
        one.out.push_back(wanted ? reinterpret_cast<std::byte*>(values.data()) : nullptr);
      }
    }
  }
  void Step() {
    std::swap(from_, to_);
    batch_.clear();
    for (One& one : rows_) batch_.push_back({one.state[from_].data(), one.state[to_].data(), one.in.data(), one.out.data()});
    Must(program_->Run(batch_, *scratch_));
  }

 private:
  struct One {
    core::AlignedBuffer<float> state[2];
    std::vector<core::AlignedBuffer<float>> inputs, outputs;
    std::vector<const std::byte*> in;
    std::vector<std::byte*> out;
  };
  const std::shared_ptr<const core::StepProgram> program_;
  const std::unique_ptr<core::StepProgram::Scratch> scratch_;
  std::deque<One> rows_;
  std::vector<core::StepRow> batch_;
  size_t from_ = 0, to_ = 1;
};

}  // namespace

void CompareModel(Ort::Env& env, const std::string& directory, const std::vector<int>& batch, int samples, bool json) {
  const int largest = *std::max_element(batch.begin(), batch.end());
  const auto program = Must(core::StepProgram::Compile(std::make_shared<const core::Model>(Must(core::LoadModelDirectory(directory, "model", "1"))), {.max_batch = largest}));
  RuntimeModel other(env, directory);
  for (const int rows : batch) {
    OurModel ours(program, static_cast<size_t>(rows));
    const auto times = Alternate({[&] { ours.Step(); }, [&] { other.Step(); }}, samples);
    std::vector<double> ratio;
    for (size_t s = 0; s < times[0].size(); ++s) ratio.push_back(times[1][s] * rows / times[0][s]);
    Emit({{"row", "peer_model"}, {"peer", "onnxruntime"}, {"version", Ort::GetVersionString()}, {"sessions", rows}, {"us_per_session", Median(times[0]) * 1e6 / rows},
          {"peer_us", Median(times[1]) * 1e6}, {"peer_ratio", Median(ratio)}}, json);
  }
}

}  // namespace lstm::bench
