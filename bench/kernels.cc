// SPDX-License-Identifier: MIT
// One layer of a step: the fused kernels against oneDNN and against what the machine can do at all, measured in the same
// run, on one core. Times are of CPU, not of the clock on the wall; samples of the engines and of the limits alternate, since
// a shared machine is not the same from one second to the next.
#include <CLI/CLI.hpp>
#include <cmath>
#include <optional>

#include "bench/contender.h"
#include "bench/machine_limits.h"
#include "bench/measure.h"
#include "bench/raw_onednn.h"
#include "bench/row.h"
#include "core/model/round_weights.h"
#include "tests/support/random_model.h"

namespace lstm::bench {
namespace {

struct Options {
  std::string cell = "lstm";
  std::vector<int> hidden = {64, 128, 256, 512, 1024, 2048};
  std::vector<int> batch = {1, 4, 8, 16, 64};
  int64_t in = 0;  // 0: as wide as hidden
  int samples = 15;
  bool alone = false, json = false;
};

void Compare(const Options& o) {
  if (!o.json) {
    std::printf("%s, f32, %s; microseconds of CPU a step, medians of %d samples; ratios are medians of ratios within a sample\n\n",
                o.cell.c_str(), VectorName(), o.samples);
    std::printf("| H | B | limit | fused | of the limit | GFLOP/s | bfloat16 weights | times as fast | int8 weights | times as fast | oneDNN as we use it | ratio | oneDNN batched | ratio |\n"
                "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
  }
  for (const int h : o.hidden) {
    const core::Model model = testing::OneLayer(o.cell, o.in > 0 ? o.in : h, h, 1);
    double weights = 0;
    std::visit([&](const auto& op) {
      if constexpr (requires { op.recurrent; }) weights += static_cast<double>(op.recurrent->values.size());
      if constexpr (requires { op.projection; }) weights += op.projection ? static_cast<double>(op.projection->values.size()) : 0;
      if constexpr (requires { op.weight; }) weights += static_cast<double>(op.weight->values.size());
    }, model.nodes[0].op);
    const LargeBuffer as_many(static_cast<size_t>(weights));
    for (const int b : o.batch) {
      Contender fused(model, core::Engine::kFused, b);
      core::Model rounded = model;
      core::RoundWeightsToBfloat16(rounded);
      Contender halves(rounded, core::Engine::kFused, b);
      rounded = model;
      core::RoundWeightsToInt8(rounded);
      Contender quarters(rounded, core::Engine::kFused, b);
      std::optional<Contender> onednn;
      if (!o.alone) onednn.emplace(model, core::Engine::kOneDnn, b);
      const auto raw = o.alone ? nullptr : RawOneDnnLstm::Make(model.nodes[0].op, b);  // null where the cell is none
      std::vector<std::function<void()>> calls = {[&] { fused.Step(); }, ComputePeak, [&] { ReadThrough(as_many); }, [&] { halves.Step(); }, [&] { quarters.Step(); }};
      if (onednn) calls.push_back([&] { onednn->Step(); });
      if (raw != nullptr) calls.push_back([&] { raw->Step(); });
      const auto times = Alternate(calls, o.samples);
      const double flop = 2 * weights * b;
      std::vector<double> limit, part, of_read, of_peak;
      for (size_t s = 0; s < times[0].size(); ++s) {
        of_read.push_back(times[2][s] / times[0][s]);
        of_peak.push_back(times[1][s] * flop / PeakFlop() / times[0][s]);
        limit.push_back(std::max(times[2][s], times[1][s] * flop / PeakFlop()));
        part.push_back(limit.back() / times[0][s]);
      }
      const auto ratio = [&](size_t which) {
        std::vector<double> all;
        for (size_t s = 0; s < times[0].size(); ++s) all.push_back(times[which][s] / times[0][s]);
        return Median(all);
      };
      const double mine = Median(times[0]);
      if (o.json) {
        Row row{{"row", "kernel"}, {"cell", o.cell}, {"weights", "f32"}, {"h", h}, {"b", b}, {"vector", VectorName()}, {"limit_us", Median(limit) * 1e6}, {"fused_us", mine * 1e6},
                {"of_limit", Median(part)}, {"of_read", Median(of_read)}, {"of_peak", Median(of_peak)}, {"gflops", flop / mine / 1e9}};
        const auto other = [&](const char* name, size_t which) { row.update({{std::string(name) + "_us", Median(times[which]) * 1e6}, {std::string(name) + "_ratio", ratio(which)}}); };
        if (onednn) other("onednn", 5);
        if (raw != nullptr) other("onednn_batched", calls.size() - 1);
        Emit(row, true);
        for (const auto& [name, which] : {std::pair<const char*, size_t>{"bf16", 3}, {"int8", 4}}) {
          Emit({{"row", "kernel"}, {"cell", o.cell}, {"weights", name}, {"h", h}, {"b", b}, {"vector", VectorName()}, {"fused_us", Median(times[which]) * 1e6}, {"faster", 1 / ratio(which)}}, true);
        }
        continue;
      }
      std::printf("| %d | %d | %.2f | %.2f | %.0f %% | %.0f |", h, b, Median(limit) * 1e6, mine * 1e6, 100 * Median(part), flop / mine / 1e9);
      for (const size_t which : {size_t{3}, size_t{4}}) std::printf(" %.2f | %.2f |", Median(times[which]) * 1e6, 1 / ratio(which));
      for (size_t other = 5; other < 7; ++other) {
        if (other < times.size()) {
          std::printf(" %.2f | %.2f |", Median(times[other]) * 1e6, ratio(other));
        } else {
          std::printf(" | |");
        }
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
}

}  // namespace
}  // namespace lstm::bench

int main(int argc, char** argv) {
  lstm::bench::Options o;
  CLI::App app("One layer of a step: fused against oneDNN and the machine's limits", "bench-kernels");
  app.option_defaults()->always_capture_default();
  app.add_option("--cell", o.cell, "lstm, lstm_peephole, lstm_projection, gru_after, gru_before, rnn_tanh, rnn_relu or linear");
  app.add_option("--hidden", o.hidden, "Sizes")->delimiter(',');
  app.add_option("--batch", o.batch, "Rows")->delimiter(',');
  app.add_option("--in", o.in, "Input width; 0: that of the layer");
  app.add_flag("--alone", o.alone, "Without oneDNN, whose weights push those of the other out of the caches");
  app.add_flag("--json", o.json, "A JSON object a line");
  app.add_option("--samples", o.samples, "Samples of each engine")->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  lstm::bench::Compare(o);
}
