// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <iostream>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "client/cli/command.h"
#include "client/cli/input.h"
#include "client/cli/output.h"
#include "client/cpp/session.h"
#include "client/cpp/stream.h"
#include "core/base/status_macros.h"

namespace lstm::client {
namespace {

struct Options {
  std::string model, version, prompt, output;
  uint32_t length = 200, top_k = 0;
  double temperature = 0.8;
  uint64_t seed = 1;
};

// Draws an id from probabilities, sharpened or flattened by the temperature; 0: the likeliest.
size_t Draw(const std::vector<float>& probabilities, const Options& options, std::mt19937_64& random) {
  const auto best = std::max_element(probabilities.begin(), probabilities.end()) - probabilities.begin();
  if (options.temperature <= 0) return static_cast<size_t>(best);
  std::vector<size_t> order(probabilities.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return probabilities[a] > probabilities[b]; });
  if (options.top_k > 0 && options.top_k < order.size()) order.resize(options.top_k);
  std::vector<double> weights;
  for (size_t id : order) weights.push_back(std::pow(std::max(probabilities[id], 1e-30f), 1 / options.temperature));
  // Not std::discrete_distribution: its draws are not the same in every library.
  double left = std::accumulate(weights.begin(), weights.end(), 0.0) * (static_cast<double>(random() >> 11) * 0x1p-53);
  for (size_t i = 0; i + 1 < order.size(); ++i) {
    if ((left -= weights[i]) < 0) return order[i];
  }
  return order.back();
}

absl::Status Run(const Connection& connection, const Options& options) {
  LSTM_ASSIGN_OR_RETURN(auto client, connection.Connect());
  LSTM_ASSIGN_OR_RETURN(const v1::ModelInfo model, client->GetModel(options.model, options.version));
  const v1::TensorSpec* output = nullptr;
  for (const v1::TensorSpec& spec : model.outputs()) {
    if (spec.uses_vocabulary() && (output == nullptr || spec.name() == options.output)) output = &spec;
  }
  if (output == nullptr || model.inputs_size() != 1 || !model.inputs(0).uses_vocabulary()) {
    return absl::InvalidArgumentError(absl::StrCat("model '", options.model, "' does not read and write its vocabulary: it cannot generate text"));
  }
  const Tokens tokens(model.vocabulary());
  std::vector<std::string> prompt = tokens.Split(options.prompt);
  if (prompt.empty()) prompt = {tokens.words() ? tokens.Text(0) : tokens.Text(tokens.Id("\n").ok() ? static_cast<size_t>(*tokens.Id("\n")) : 0)};

  LSTM_ASSIGN_OR_RETURN(auto stream, client->OpenStream());
  v1::Open open;
  open.set_model(options.model);
  open.set_version(options.version);
  open.mutable_options()->set_last_step_only(true);
  open.mutable_options()->add_outputs(output->name());
  const absl::Duration timeout = connection.patience();
  LSTM_ASSIGN_OR_RETURN(auto session, stream->Open(std::move(open), timeout));

  v1::Step step;
  v1::Tensor* ids = step.add_inputs();
  for (const std::string& token : prompt) {
    LSTM_ASSIGN_OR_RETURN(const int64_t id, tokens.Id(token));
    ids->add_ints(id);
  }
  std::mt19937_64 random(options.seed);
  std::cout << options.prompt << (tokens.words() && !options.prompt.empty() ? " " : "") << std::flush;
  for (uint32_t i = 0; i < options.length; ++i) {
    LSTM_ASSIGN_OR_RETURN(const v1::Result result, session->Step(step, timeout));
    const size_t id = Draw(RowOf(result.outputs(0), 0), options, random);
    std::cout << tokens.Text(id) << (tokens.words() ? " " : "") << std::flush;
    if (!std::cout) return absl::AbortedError("the output cannot be written");
    ids->clear_ints();
    ids->add_ints(static_cast<int64_t>(id));
  }
  std::cout << "\n" << std::flush;
  return session->Close(timeout);
}

}  // namespace

void AddGenerateCommand(CLI::App& app, const Connection& connection, absl::Status& result) {
  CLI::App* command = app.add_subcommand("generate", "Let a model write: each token it draws is its next input");
  auto o = std::make_shared<Options>();
  command->add_option("MODEL", o->model, "Name of the model")->required();
  command->add_option("--version", o->version, "Version of the model; default: the newest");
  command->add_option("--prompt", o->prompt, "Text to begin with");
  command->add_option("--length", o->length, "Tokens to draw")->check(CLI::Range(1u, 1000000u))->capture_default_str();
  command->add_option("--temperature", o->temperature, "0: always the likeliest; 1: as the model says")->check(CLI::Range(0.0, 10.0))->capture_default_str();
  command->add_option("--top-k", o->top_k, "Draw from the k likeliest alone; 0: from all")->capture_default_str();
  command->add_option("--seed", o->seed, "The same seed draws the same text")->capture_default_str();
  command->add_option("--select", o->output, "The output to draw from, where there are several");
  command->callback([&connection, &result, o] { result = Run(connection, *o); });
}

}  // namespace lstm::client
