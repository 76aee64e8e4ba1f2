// SPDX-License-Identifier: MIT
#pragma once

#include <future>
#include <stdexcept>

#include "tests/chaos/plan.h"
#include "tests/chaos/process.h"

namespace lstm::testing {

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) throw std::runtime_error(value.status().ToString());
  return *std::move(value);
}

inline std::unique_ptr<client::Client> Connect(const std::string& address) {
  client::ConnectOptions options;
  options.address = address;
  options.timeout = options.reconnect_timeout = absl::FromChrono(kPatience);
  return Must(client::Client::Connect(options));
}

// A server that nobody disturbs, whose sessions are volatile: what it answers is right.
class Judge {
 public:
  Judge() : server_(LSTM_CHAOS_SERVER, "") {
    if (!server_.Start()) throw std::runtime_error("the undisturbed server does not start: " + server_.log());
    client_ = Connect(server_.address());
    stream_ = Must(client_->OpenStream());
    for (const char* name : {"french", "french-rnn", "shakespeare", "telemetry"}) models_.push_back(Must(client_->GetModel(name)));
  }

  // `n` plans of 1 to `most_turns` turns, for LSTM_SEED.
  std::vector<Plan> Plans(size_t n, size_t most_turns) {
    std::vector<Plan> plans = RandomPlans(models_, n, most_turns, Setting("LSTM_SEED", 1));
    std::vector<std::future<void>> parts;  // many sessions at a time share batches
    for (size_t p = 0; p < 16; ++p) {
      parts.push_back(std::async(std::launch::async, [&, p] {
        for (size_t i = p; i < plans.size(); i += 16) plans[i].truth = Answers(plans[i].model, plans[i].turns);
      }));
    }
    for (std::future<void>& part : parts) part.get();
    return plans;
  }
  std::vector<std::string> Answers(const std::string& model, const std::vector<v1::Step>& turns) { return Must(Undisturbed(*stream_, model, turns)); }
  const v1::ModelInfo& model(const std::string& name) const {
    for (const v1::ModelInfo& info : models_) {
      if (info.name() == name) return info;
    }
    throw std::runtime_error("no model " + name);
  }

 private:
  Server server_;
  std::unique_ptr<client::Client> client_;
  std::unique_ptr<client::Stream> stream_;
  std::vector<v1::ModelInfo> models_;
};

}  // namespace lstm::testing
