// SPDX-License-Identifier: MIT
// One LSTM layer, one step of a batch: the fused kernels against ONNX Runtime, whose graph is one LSTM node with its state as inputs and
// outputs, bound once. Microseconds of this thread's CPU, samples turn about; ratios above 1: the fused kernels are faster.
//
//   bench-onnxruntime [--json] [--samples N] [--hidden N,...] [--batch N,...]
//   bench-onnxruntime --model DIR       a whole model instead (onnxruntime_model.h)
#include <onnxruntime_cxx_api.h>

#include <CLI/CLI.hpp>

#include "bench/contender.h"
#include "bench/machine_limits.h"
#include "bench/onnxruntime_model.h"
#include "bench/row.h"
#include "tests/core/import/onnx/onnx_writer.h"

namespace lstm::bench {
namespace {

class RuntimeLstm {
 public:
  RuntimeLstm(Ort::Env& env, int64_t hidden, int64_t rows) : x_(Noise(rows * hidden)), h_(Noise(rows * hidden)), c_(Noise(rows * hidden)), y_h_(h_.size()), y_c_(c_.size()) {
    using Onnx = testing::OnnxWriter;
    const core::Shape state = {1, rows, hidden};
    Onnx onnx;
    onnx.Node("LSTM", {"x", "w", "r", "b", "", "h", "c"}, {"", "y_h", "y_c"}, Onnx::Int("hidden_size", hidden));
    onnx.Initializer(Onnx::Tensor("w", {1, 4 * hidden, hidden}, Noise(4 * hidden * hidden)));
    onnx.Initializer(Onnx::Tensor("r", {1, 4 * hidden, hidden}, Noise(4 * hidden * hidden)));
    onnx.Initializer(Onnx::Tensor("b", {1, 8 * hidden}, Noise(8 * hidden)));
    for (const char* name : {"x", "h", "c"}) onnx.Input(Onnx::Declared(name, state));
    for (const char* name : {"y_h", "y_c"}) onnx.rest += Onnx::Bytes(12, Onnx::Declared(name, state));
    onnx.nodes += Onnx::Bytes(2, "lstm");  // the graph's name
    const std::string file = onnx.File();
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    options.SetInterOpNumThreads(1);
    options.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
    session_ = Ort::Session(env, file.data(), file.size(), options);
    binding_ = Ort::IoBinding(session_);
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto value = [&](std::vector<float>& values) { return Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), state.data(), state.size()); };
    binding_.BindInput("x", value(x_));
    binding_.BindInput("h", value(h_));
    binding_.BindInput("c", value(c_));
    binding_.BindOutput("y_h", value(y_h_));
    binding_.BindOutput("y_c", value(y_c_));
  }
  void Step() { session_.Run(Ort::RunOptions{nullptr}, binding_); }

 private:
  static std::vector<float> Noise(int64_t n) {
    testing::Random random(1);
    std::vector<float> out(static_cast<size_t>(n));
    for (float& v : out) v = random.Uniform(0.1f);
    return out;
  }
  std::vector<float> x_, h_, c_, y_h_, y_c_;
  Ort::Session session_{nullptr};
  Ort::IoBinding binding_{nullptr};
};

}  // namespace
}  // namespace lstm::bench

int main(int argc, char** argv) {
  using namespace lstm;
  std::vector<int64_t> hidden = {64, 128, 256, 512, 1024, 2048};
  std::vector<int> batch = {1, 4, 8, 16, 64};
  int samples = 15;
  bool json = false;
  std::string model_directory;
  CLI::App app("One LSTM layer: fused against ONNX Runtime", "bench-onnxruntime");
  app.add_option("--hidden", hidden, "Sizes")->delimiter(',');
  app.add_option("--batch", batch, "Rows")->delimiter(',');
  app.add_option("--model", model_directory, "A directory with model.onnx and model.textproto, at --batch sessions");
  app.add_option("--samples", samples, "Samples of each")->check(CLI::Range(1, 1000));
  app.add_flag("--json", json, "A JSON object a line");
  CLI11_PARSE(app, argc, argv);
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "bench");
  if (!model_directory.empty()) {
    bench::CompareModel(env, model_directory, batch, samples, json);
    return 0;
  }
  for (const int64_t h : hidden) {
    const core::Model model = testing::OneLayer("lstm", h, h, 1);
    for (const int b : batch) {
      bench::Contender fused(model, core::Engine::kFused, b);
      bench::RuntimeLstm other(env, h, b);
      const auto times = bench::Alternate({[&] { fused.Step(); }, [&] { other.Step(); }}, samples);
      std::vector<double> ratio;
      for (size_t s = 0; s < times[0].size(); ++s) ratio.push_back(times[1][s] / times[0][s]);
      bench::Emit({{"row", "peer"}, {"peer", "onnxruntime"}, {"version", Ort::GetVersionString()}, {"h", h}, {"b", b}, {"fused_us", bench::Median(times[0]) * 1e6},
                   {"peer_us", bench::Median(times[1]) * 1e6}, {"peer_ratio", bench::Median(ratio)}}, json);
    }
  }
}
