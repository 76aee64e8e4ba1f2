// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>

#include "bench/bench_models.h"
#include "bench/machine_limits.h"
#include "bench/served.h"
#include "bench/stream_load.h"
#include "bench/wire.h"
#include "core/import/manifest_import.h"
#include "core/program/step_program.h"

// What a turn costs the server's core.
namespace lstm::bench {
namespace {

constexpr int64_t kFloats = 64, kFewFloats = 16;

std::unique_ptr<StreamLoad> Load(const Served& server, const Layout& layout, const std::function<std::unique_ptr<Talk>()>& talk) {
  std::vector<std::unique_ptr<Talk>> talks;
  for (int s = 0; s < layout.streams; ++s) talks.push_back(talk());
  return std::make_unique<StreamLoad>(server.address(), server.pid(), layout, std::move(talks));
}

std::unique_ptr<StreamLoad> ServerLoad(const Served& server, const std::string& model, const Layout& layout, int64_t floats, uint32_t steps = 1, int64_t ids = 0) {
  return Load(server, layout, [&] { return TalkToServer(model, layout, static_cast<uint32_t>(floats), steps, ids); });
}

// An echo server whose messages are as long as those of `like`, a turn of `model`; and a load on it.
struct Echo {
  Echo(const Layout& layout, const std::string& model, int64_t floats, int64_t ids, StreamLoad& like)
      : bytes(TalkToServer(model, layout, static_cast<uint32_t>(floats), 1, ids)->Turns({0}).Length()),
        server({"/proc/self/exe", "--serve-echo", std::to_string(like.Run(0.05).answer_bytes - 8)}, {kServerCore}),
        load(Load(server, layout, [&] { return TalkToEcho(layout, bytes); })) {}
  size_t bytes;
  Served server;
  std::unique_ptr<StreamLoad> load;
};

double MedianOf(const std::vector<Slice>& slices, double (*what)(const Slice&)) {
  std::vector<double> values;
  for (const Slice& slice : slices) values.push_back(what(slice));
  return Median(values);
}
double Cpu(const Slice& s) { return s.server_cpu_us; }
double Client(const Slice& s) { return s.client_cpu_us; }
double Rate(const Slice& s) { return s.turns_per_second; }
double P50(const Slice& s) { return s.latency.At(0.5) * 1e3; }
double P99(const Slice& s) { return s.latency.At(0.99) * 1e3; }

// Of each round what of the one is to what of the other.
double RatioOf(const std::vector<Slice>& a, const std::vector<Slice>& b, double (*what)(const Slice&)) {
  std::vector<double> ratios;
  for (size_t i = 0; i < a.size(); ++i) ratios.push_back(what(a[i]) / what(b[i]));
  return Median(ratios);
}

std::vector<std::vector<Slice>> TurnAbout(const WireOptions& o, const std::vector<StreamLoad*>& loads) {
  std::vector<std::vector<Slice>> out(loads.size());
  for (StreamLoad* load : loads) load->Run(0.1);
  for (int r = 0; r < o.rounds(); ++r) {
    for (size_t i = 0; i < loads.size(); ++i) out[i].push_back(loads[i]->Run(o.slice_s()));
  }
  return out;
}

}  // namespace

std::vector<Row> BesideEcho(const WireOptions& o) {
  Models models;
  models.PutFree("free", kFloats);
  Served server = ServeModels(models.path());
  const Layout many{1, 64, 1, 1}, one{1, 1, 1, 1}, shared{1, 1, 512, 1};
  const auto ours_many = ServerLoad(server, "free", many, kFloats), ours_one = ServerLoad(server, "free", one, kFloats), ours_shared = ServerLoad(server, "free", shared, kFloats);
  const Echo echo_many(many, "free", kFloats, 0, *ours_many), echo_one(one, "free", kFloats, 0, *ours_one), echo_shared(shared, "free", kFloats, 0, *ours_shared);
  const auto s = TurnAbout(o, {ours_many.get(), echo_many.load.get(), ours_one.get(), echo_one.load.get(), ours_shared.get(), echo_shared.load.get()});
  std::vector<Row> rows;
  const char* const names[] = {"64 streams of one session", "one stream of one session", "one stream of 512 sessions"};
  for (size_t i = 0; i < 3; ++i) {
    const auto &ours = s[2 * i], &echo = s[2 * i + 1];
    rows.push_back({{"row", "wire"}, {"layout", names[i]}, {"cpu_us", MedianOf(ours, Cpu)}, {"echo_cpu_us", MedianOf(echo, Cpu)}, {"cpu_ratio", RatioOf(ours, echo, Cpu)},
                    {"p50_us", MedianOf(ours, P50)}, {"echo_p50_us", MedianOf(echo, P50)}, {"p50_ratio", RatioOf(ours, echo, P50)}, {"p99_us", MedianOf(ours, P99)},
                    {"echo_p99_us", MedianOf(echo, P99)}, {"turns_per_second", MedianOf(ours, Rate)}, {"echo_turns_per_second", MedianOf(echo, Rate)},
                    {"client_cpu_us", MedianOf(ours, Client)}, {"echo_client_cpu_us", MedianOf(echo, Client)}});
  }
  rows.push_back({{"row", "coalesced"}, {"steps_per_cpu_second_ratio", RatioOf(s[0], s[4], Cpu)}});
  return rows;
}

std::vector<Row> ManySteps(const WireOptions& o) {
  Models models;
  models.PutFree("few", kFewFloats);
  Served server = ServeModels(models.path());
  const Layout layout{1, 8, 1, 4};
  const std::vector<uint32_t> steps = {1, 16, 64, 256};
  std::vector<std::unique_ptr<StreamLoad>> loads;
  std::vector<StreamLoad*> each;
  for (const uint32_t t : steps) each.push_back(loads.emplace_back(ServerLoad(server, "few", layout, kFewFloats, t)).get());
  const auto s = TurnAbout(o, each);
  std::vector<Row> rows;
  for (size_t i = 0; i < steps.size(); ++i) {
    rows.push_back({{"row", "steps"}, {"steps", steps[i]}, {"cpu_us_per_step", MedianOf(s[i], Cpu) / steps[i]}, {"part_of_one", RatioOf(s[i], s[0], Cpu) / steps[i]},
                    {"steps_per_second", MedianOf(s[i], Rate) * steps[i]}});
  }
  return rows;
}

namespace {

// A program alone on this thread: rows of 512 sessions, so many at a time.
class Alone {
 public:
  Alone(std::shared_ptr<const core::StepProgram> program, size_t batch) : program_(std::move(program)), scratch_(program_->MakeScratch()), batch_(batch) {
    for (size_t s = 0; s < kSessions; ++s) {
      for (auto& row : states_) row.emplace_back(program_->state_floats());
      std::copy(program_->initial_state().begin(), program_->initial_state().end(), states_[0].back().data());
    }
    size_t in = 0, out = 0;
    for (const auto& port : program_->inputs()) in += (port.step_bytes + 63) / 64 * 64;
    for (size_t i = 0; i < program_->declared_outputs(); ++i) out += (program_->outputs()[i].step_bytes + 63) / 64 * 64;
    input_.resize(in);
    output_.resize(out * batch);
    std::byte* at = input_.data();
    for (const auto& port : program_->inputs()) {
      ins_.push_back(at);
      at += (port.step_bytes + 63) / 64 * 64;
    }
    at = output_.data();
    for (size_t b = 0; b < batch; ++b) {
      std::vector<std::byte*>& outs = outs_.emplace_back(program_->outputs().size(), nullptr);
      for (size_t i = 0; i < program_->declared_outputs(); ++i) {
        outs[i] = at;
        at += (program_->outputs()[i].step_bytes + 63) / 64 * 64;
      }
    }
  }
  // Microseconds of CPU for a step of one row.
  double Measure(double seconds) {
    uint64_t rows = 0;
    const double begin = ThreadSeconds();
    double now = begin;
    while (now - begin < seconds) {
      std::vector<core::StepRow> batch;
      for (size_t b = 0; b < batch_; ++b, ++next_) {
        const size_t s = next_ % kSessions, from = next_ / kSessions % 2;
        batch.push_back({states_[from][s].data(), states_[1 - from][s].data(), ins_.data(), outs_[b].data()});
      }
      Must(program_->Run(batch, *scratch_));
      rows += batch_;
      now = ThreadSeconds();
    }
    return (now - begin) / static_cast<double>(rows) * 1e6;
  }

 private:
  static constexpr size_t kSessions = 512;
  const std::shared_ptr<const core::StepProgram> program_;
  const std::unique_ptr<core::StepProgram::Scratch> scratch_;
  const size_t batch_;
  size_t next_ = 0;
  std::vector<core::AlignedBuffer<float>> states_[2];
  std::vector<std::byte> input_, output_;
  std::vector<const std::byte*> ins_;
  std::vector<std::vector<std::byte*>> outs_;
};

}  // namespace

std::vector<Row> RealModel(const WireOptions& o) {
  Models models;
  models.PutBundled("shakespeare");
  const auto program = Must(core::StepProgram::Compile(std::make_shared<const core::Model>(Must(core::LoadModelDirectory(models.At("shakespeare").string(), "shakespeare", "1"))), {}));
  const int64_t ids = program->inputs()[0].limit;
  std::vector<Row> rows;
  for (const auto& [name, layout] : {std::pair<const char*, Layout>{"512 streams", {1, 512, 1, 1}}, {"8 streams of 64", {1, 8, 64, 1}}}) {
    Served server = ServeModels(models.path());
    const auto ours = ServerLoad(server, "shakespeare", layout, 1, 1, ids);
    const Echo echo(layout, "shakespeare", 1, ids, *ours);
    // The batches that the server makes of this load; then the same in here.
    const double rows_before = server.Metric("lstm_batch_rows_sum"), batches_before = server.Metric("lstm_batch_rows_count");
    ours->Run(o.slice_s());
    const double batch = (server.Metric("lstm_batch_rows_sum") - rows_before) / (server.Metric("lstm_batch_rows_count") - batches_before);
    Alone alone(program, static_cast<size_t>(std::clamp(std::lround(batch), 1L, static_cast<long>(program->max_batch()))));
    alone.Measure(0.1);
    std::vector<double> mine, wire, kernel, ratio;
    for (int r = 0; r < o.rounds(); ++r) {
      mine.push_back(ours->Run(o.slice_s()).server_cpu_us);
      wire.push_back(echo.load->Run(o.slice_s()).server_cpu_us);
      kernel.push_back(alone.Measure(o.slice_s() / 2));
      ratio.push_back(mine.back() / (wire.back() + kernel.back()));
    }
    rows.push_back({{"row", "model"}, {"sessions", name}, {"batch", batch}, {"cpu_us", Median(mine)}, {"echo_cpu_us", Median(wire)}, {"kernel_us", Median(kernel)}, {"ratio", Median(ratio)}});
  }
  return rows;
}

std::vector<Row> TwoShards(const WireOptions& o) {
  Models models;
  models.PutFree("free", kFloats);
  std::vector<Row> rows;
  for (const int connections : {1, 64}) {
    const Layout layout{connections, 64, 1, 1};
    Served one = ServeModels(models.path(), 1), two = ServeModels(models.path(), 2, {"--log-level", "debug"});
    const auto with_one = ServerLoad(one, "free", layout, kFloats), with_two = ServerLoad(two, "free", layout, kFloats);
    std::vector<int> streams(2);
    while (streams[0] + streams[1] < layout.streams) {
      const auto line = two.child().WaitForText("stream began");
      if (!line) Die("the server does not say on which shard a stream is");
      ++streams[line->find("shard=1") != std::string::npos ? 1 : 0];
    }
    const auto s = TurnAbout(o, {with_two.get(), with_one.get()});
    rows.push_back({{"row", "shards"}, {"connections", connections}, {"cpu_us", MedianOf(s[0], Cpu)}, {"one_cpu_us", MedianOf(s[1], Cpu)}, {"cpu_ratio", RatioOf(s[0], s[1], Cpu)},
                    {"sessions_ratio", static_cast<double>(std::max(streams[0], streams[1])) / std::max(1, std::min(streams[0], streams[1]))}, {"turns_per_second", MedianOf(s[0], Rate)}});
  }
  return rows;
}

}  // namespace lstm::bench
