// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <deque>
#include <filesystem>
#include <future>
#include <iostream>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/command.h"
#include "client/cli/file.h"
#include "client/cli/input.h"
#include "client/cli/output.h"
#include "client/cpp/session.h"
#include "client/cpp/stream.h"
#include "core/base/npy.h"
#include "core/base/status_macros.h"

namespace lstm::client {
namespace {

using Instant = std::chrono::steady_clock::time_point;

struct Options {
  std::string model, version, format;
  std::vector<std::string> files = {"-"};
  std::vector<std::string> traces, once;
  OutputOptions output;
  uint32_t turn = 1;
  v1::Durability durability = v1::DURABILITY_UNSPECIFIED;
  std::string save, resume;  // files of a session's handle
};

constexpr uint32_t kUsualWindow = 8, kUsualTurn = 16;  // what the server gives room for by itself
constexpr uint64_t kMostAnswerBytes = 16 << 20;

// Room for the answers of a window of turns. What a trace is that is no state tensor is not known: taken for all of the state.
uint64_t AnswerBytes(const v1::ModelInfo& model, const Options& options) {
  constexpr uint64_t kOfTensor = 64, kOfTurn = 256;  // names and shapes
  uint64_t step = 0, fixed = kOfTurn;
  const auto add = [&](uint64_t bytes) { step += bytes, fixed += kOfTensor; };
  for (const v1::TensorSpec& spec : model.outputs()) add(static_cast<uint64_t>(ElementsOf(spec)) * sizeof(float));
  for (const std::string& trace : options.traces) {
    uint64_t bytes = model.state_bytes();
    for (const v1::TensorSpec& spec : model.state()) bytes = spec.name() == trace ? static_cast<uint64_t>(ElementsOf(spec)) * sizeof(float) : bytes;
    add(bytes);
  }
  return std::min(kMostAnswerBytes, kUsualWindow * (options.turn * step + fixed));
}

// T steps as one turn: the values of each input one after another.
v1::Step JoinSteps(const std::vector<InputStep>& steps) {
  v1::Step turn;
  turn.set_steps(static_cast<uint32_t>(steps.size()));
  for (const v1::Tensor& first : steps[0].tensors) *turn.add_inputs() = first;
  for (size_t k = 1; k < steps.size(); ++k) {
    for (int i = 0; i < turn.inputs_size(); ++i) {
      const v1::Tensor& from = steps[k].tensors[static_cast<size_t>(i)];
      v1::Tensor* to = turn.mutable_inputs(i);
      to->mutable_data()->append(from.data());
      to->mutable_floats()->MergeFrom(from.floats());
      to->mutable_ints()->MergeFrom(from.ints());
    }
  }
  return turn;
}

// One input file and its session.
struct Feed {
  struct Sent {
    std::vector<std::string> shown;
    Instant at;
    std::future<absl::StatusOr<v1::Result>> answer;
  };
  std::string label;
  std::unique_ptr<InputReader> reader;
  std::unique_ptr<Session> session;
  std::deque<Sent> sent;
  uint64_t step = 0;
  bool ended = false;

  absl::Status SendNext(uint32_t turn, absl::Duration timeout) {
    std::vector<InputStep> steps;
    while (steps.size() < turn) {
      LSTM_ASSIGN_OR_RETURN(auto step_read, reader->Next());
      if (!step_read) break;
      steps.push_back(*std::move(step_read));
    }
    ended = steps.size() < turn;
    if (steps.empty()) return absl::OkStatus();
    Sent& one = sent.emplace_back();
    for (const InputStep& s : steps) one.shown.push_back(s.shown);
    one.at = std::chrono::steady_clock::now();
    auto promise = std::make_shared<std::promise<absl::StatusOr<v1::Result>>>();
    one.answer = promise->get_future();
    return session->Send(JoinSteps(steps), [promise](absl::StatusOr<v1::Result> r) { promise->set_value(std::move(r)); }, timeout);
  }

  absl::Status Open(Stream& stream, const v1::ModelInfo& model, const Options& options, absl::Duration timeout) {
    v1::Open open;
    open.set_model(options.model);
    open.set_version(options.version);
    open.set_durability(options.durability);
    if (options.turn > kUsualTurn) open.set_answer_bytes(AnswerBytes(model, options));
    open.mutable_options()->set_timings(options.output.timing);
    for (const std::string& trace : options.traces) open.mutable_options()->add_traces(trace);
    LSTM_ASSIGN_OR_RETURN(session, stream.Open(std::move(open), timeout));
    return absl::OkStatus();
  }

  // Goes on with a saved session; what it answered to another process that did not come to save again is printed first.
  absl::Status Resume(Stream& stream, const Options& options, OutputWriter& writer, absl::Duration timeout) {
    LSTM_ASSIGN_OR_RETURN(const std::string saved, ReadFile(options.resume));
    std::vector<v1::Result> missed;
    LSTM_ASSIGN_OR_RETURN(session, stream.Resume(saved, [&](v1::Result result) { missed.push_back(std::move(result)); }, timeout));
    const std::string& model = session->opened().model();
    if (!model.empty() && model != options.model) {
      session->Release();
      return absl::InvalidArgumentError(absl::StrCat("'", options.resume, "' is a session of model '", model, "', not of '", options.model, "'"));
    }
    for (const v1::Result& result : missed) {
      const uint32_t rows = result.outputs_size() > 0 && result.outputs(0).shape_size() > 0 ? static_cast<uint32_t>(result.outputs(0).shape(0)) : 1;
      for (uint32_t row = 0; row < rows; ++row) LSTM_RETURN_IF_ERROR(writer.Write({step++, label, "", &result, row, 0}));
    }
    return absl::OkStatus();
  }

  absl::Status Finish(const Options& options, absl::Duration timeout) {
    if (options.save.empty()) return session->Close(timeout);
    session->Release();
    LSTM_ASSIGN_OR_RETURN(const std::string handle, session->Save());
    return WritePrivateFile(options.save, handle);
  }

  absl::Status PrintFirst(OutputWriter& writer, absl::Duration timeout) {
    Sent one = std::move(sent.front());
    sent.pop_front();
    if (one.answer.wait_for(absl::ToChronoMilliseconds(timeout)) != std::future_status::ready) {
      return absl::DeadlineExceededError(absl::StrCat("no answer within ", absl::FormatDuration(timeout)));
    }
    const auto result = one.answer.get();
    if (!result.ok()) return result.status();
    const double micros = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - one.at).count();
    for (uint32_t row = 0; row < one.shown.size(); ++row) {
      LSTM_RETURN_IF_ERROR(writer.Write({step++, label, one.shown[row], &*result, row, micros}));
    }
    return absl::OkStatus();
  }
};

absl::Status RunStream(const Connection& connection, const Options& options) {
  if (options.files.size() > 1 && !(options.save.empty() && options.resume.empty())) {
    return absl::InvalidArgumentError(absl::StrCat("--save and --resume are of one session: expected one input file, got ", options.files.size()));
  }
  LSTM_ASSIGN_OR_RETURN(auto client, connection.Connect());
  LSTM_ASSIGN_OR_RETURN(const v1::ModelInfo model, client->GetModel(options.model, options.version));
  if (!model.not_streamable().empty()) {
    return absl::FailedPreconditionError(absl::StrCat("model '", options.model, "' has no sessions: ", model.not_streamable(), ". `lstm-client predict` computes whole sequences with it"));
  }
  LSTM_ASSIGN_OR_RETURN(auto writer, OpenOutput(options.output, model));
  LSTM_ASSIGN_OR_RETURN(auto stream, client->OpenStream());
  std::vector<Feed> feeds;
  for (const std::string& file : options.files) {
    Feed& feed = feeds.emplace_back();
    if (options.files.size() > 1) feed.label = std::filesystem::path(file).stem().string();
    LSTM_ASSIGN_OR_RETURN(feed.reader, OpenInput(file, options.format, model));
    LSTM_RETURN_IF_ERROR(options.resume.empty() ? feed.Open(*stream, model, options, connection.patience())
                                                : feed.Resume(*stream, options, *writer, connection.patience()));
  }
  // Each round sends one turn of every session, then shows its answer: several inputs run step by step side by side.
  absl::Status status;
  for (bool more = true; more && status.ok();) {
    more = false;
    for (Feed& feed : feeds) {
      if (!feed.ended && status.ok()) status = feed.SendNext(options.turn, connection.patience());
    }
    for (Feed& feed : feeds) {
      while (!feed.sent.empty() && status.ok()) status = feed.PrintFirst(*writer, connection.patience());
      more = more || !feed.ended;
    }
  }
  for (Feed& feed : feeds) {
    const absl::Status closed = feed.Finish(options, connection.patience());
    if (status.ok()) status = closed;
  }
  const absl::Status finished = writer->Finish();
  return status.ok() ? finished : status;
}

// NAME=NUMBER[,NUMBER ...] or NAME=FILE.npy.
absl::StatusOr<std::vector<v1::Tensor>> ReadOnce(const std::vector<std::string>& texts, const v1::ModelInfo& model) {
  std::vector<v1::Tensor> out;
  for (const std::string& text : texts) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
    const auto spec = std::find_if(model.predict_inputs().begin(), model.predict_inputs().end(), [&](const v1::TensorSpec& s) { return s.once() && s.name() == parts.first; });
    if (spec == model.predict_inputs().end()) return absl::InvalidArgumentError(absl::StrCat("--once ", text, ": the model has no such input"));
    std::vector<double> values;
    if (absl::EndsWith(parts.second, ".npy")) {
      LSTM_ASSIGN_OR_RETURN(const core::NpyArray array, core::ReadNpy(parts.second));
      for (float v : array.ToFloats()) values.push_back(static_cast<double>(v));
    } else {
      for (absl::string_view number : absl::StrSplit(parts.second, ',')) {
        if (!absl::SimpleAtod(number, &values.emplace_back())) return absl::InvalidArgumentError(absl::StrCat("--once ", text, ": expected NAME=NUMBER,NUMBER,... or NAME=FILE.npy"));
      }
    }
    v1::Tensor& tensor = out.emplace_back();
    tensor.set_name(parts.first);
    for (double v : values) {
      if (spec->type() == v1::INT32) tensor.add_ints(static_cast<int64_t>(v));
      if (spec->type() != v1::INT32) tensor.add_floats(static_cast<float>(v));
    }
  }
  return out;
}

absl::Status RunPredict(const Connection& connection, const Options& options) {
  LSTM_ASSIGN_OR_RETURN(auto client, connection.Connect());
  LSTM_ASSIGN_OR_RETURN(v1::ModelInfo model, client->GetModel(options.model, options.version));
  const bool whole = model.predict_outputs_size() > 0;
  std::vector<v1::Tensor> once;
  if (whole) {
    LSTM_ASSIGN_OR_RETURN(once, ReadOnce(options.once, model));
    model.mutable_inputs()->Clear();
    for (const v1::TensorSpec& spec : model.predict_inputs()) {
      if (!spec.once()) *model.add_inputs() = spec;
    }
    *model.mutable_outputs() = model.predict_outputs();
  } else if (!options.once.empty()) {
    return absl::InvalidArgumentError("--once: the model has no inputs that come once for a sequence");
  }
  LSTM_ASSIGN_OR_RETURN(auto writer, OpenOutput(options.output, model));
  LSTM_ASSIGN_OR_RETURN(auto reader, OpenInput(options.files[0], options.format, model));
  std::vector<InputStep> steps;
  while (true) {
    LSTM_ASSIGN_OR_RETURN(auto step, reader->Next());
    if (!step) break;
    steps.push_back(*std::move(step));
  }
  if (steps.empty()) return absl::InvalidArgumentError("the input is empty, expected at least one step");
  v1::Step joined = JoinSteps(steps);
  v1::PredictRequest request;
  request.set_model(options.model);
  request.set_version(options.version);
  request.set_steps(joined.steps());
  request.mutable_inputs()->Swap(joined.mutable_inputs());
  for (v1::Tensor& tensor : once) *request.add_inputs() = std::move(tensor);
  for (const std::string& trace : options.traces) request.mutable_options()->add_traces(trace);
  const auto begin = std::chrono::steady_clock::now();
  LSTM_ASSIGN_OR_RETURN(v1::PredictResponse response, client->Predict(request));
  const double micros = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
  v1::Result of_all;                     // for the sequence
  std::map<uint32_t, v1::Result> frames;  // by how many there are: for each step, or less often
  for (v1::Tensor& tensor : *response.mutable_outputs()) {
    bool each = true;
    for (const v1::TensorSpec& spec : model.predict_outputs()) each = each && (spec.name() != tensor.name() || !spec.once());
    if (!each) tensor.mutable_shape()->Clear();  // one row
    const uint32_t count = each && tensor.shape_size() > 0 ? static_cast<uint32_t>(tensor.shape(0)) : 0;
    *(each ? frames[count] : of_all).add_outputs() = std::move(tensor);
  }
  if (options.output.path.ends_with(".npy")) {  // the one output that it gets, and what comes as often
    const std::string& select = options.output.select;
    const std::string& wanted = select.empty() ? model.outputs(0).name() : select;
    std::erase_if(frames, [&](const auto& group) {
      return std::none_of(group.second.outputs().begin(), group.second.outputs().end(), [&](const v1::Tensor& t) { return t.name() == wanted; });
    });
    if (!frames.empty()) of_all.Clear();
  } else if (options.output.path.ends_with(".csv") && frames.size() > 1) {
    return absl::InvalidArgumentError("the outputs have different numbers of frames, which are no rows of one .csv: write .ndjson, or .npy with --select");
  }
  for (const auto& [count, result] : frames) {
    for (uint32_t row = 0; row < count; ++row) {
      LSTM_RETURN_IF_ERROR(writer->Write({row, "", count == steps.size() ? steps[row].shown : "", &result, row, micros}));
    }
  }
  if (of_all.outputs_size() > 0) LSTM_RETURN_IF_ERROR(writer->Write({steps.size() - 1, "whole", "", &of_all, 0, micros}));
  return writer->Finish();
}

void Describe(CLI::App* command, Options& o, bool several) {
  command->add_option("MODEL", o.model, "Name of the model")->required();
  if (several) {
    command->add_option("FILES", o.files, "Inputs; '-' is standard input. Several run side by side on one stream, a session each");
    command->add_option("--turn", o.turn, "Time steps sent together")->check(CLI::Range(1u, 4096u))->capture_default_str();
    AddDurabilityOption(*command, o.durability);
    command->add_option("--save", o.save, "Keep the session on the server at the end of the input, and write its handle (a secret)")->type_name("FILE");
    command->add_option("--resume", o.resume, "Go on with the session whose handle --save wrote")->type_name("FILE");
  } else {
    command->add_option("FILE", o.files, "Input; '-' is standard input")->expected(1);
    command->add_option("--once", o.once, "NAME=NUMBER,... or NAME=FILE.npy: an input that comes once for the sequence; may be repeated")->allow_extra_args(false);
  }
  command->add_option("--version", o.version, "Version of the model; default: the newest");
  command->add_option("--format", o.format, "text, csv, ndjson, npy or wav; default: by the file's ending");
  command->add_option("--output", o.output.path, "File for the predictions: .npy, .ndjson or .csv");
  command->add_option("--select", o.output.select, "The output that an .npy file gets; default: the first");
  command->add_option("--trace", o.traces, "State tensor or layer to show beside the outputs; may be repeated")->allow_extra_args(false);
  command->add_flag("--timing", o.output.timing, "Turn and timing fields in NDJSON");
}

}  // namespace

void AddStreamCommands(CLI::App& app, const Connection& connection, absl::Status& result) {
  auto stream = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("stream", "Stream steps through a session and print each prediction as it comes");
  Describe(command, *stream, true);
  command->callback([&connection, &result, stream] { result = RunStream(connection, *stream); });
  auto predict = std::make_shared<Options>();
  command = app.add_subcommand("predict", "Send a whole sequence at once, without a session");
  Describe(command, *predict, false);
  command->callback([&connection, &result, predict] { result = RunPredict(connection, *predict); });
}

}  // namespace lstm::client
