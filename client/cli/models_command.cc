// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/command.h"
#include "core/base/status_macros.h"

namespace lstm::client {
namespace {

nlohmann::ordered_json Json(const v1::TensorSpec& spec) {
  nlohmann::ordered_json json = {{"name", spec.name()}, {"type", v1::DataType_Name(spec.type())}};
  if (spec.once()) json["once"] = true;
  if (spec.optional()) json["optional"] = true;
  if (spec.scale() != 0) json["scale"] = spec.scale(), json["offset"] = spec.offset();
  json["shape"] = std::vector<int64_t>(spec.shape().begin(), spec.shape().end());
  return json;
}

std::string Text(const google::protobuf::RepeatedPtrField<v1::TensorSpec>& specs) {
  return absl::StrJoin(specs, ", ", [](std::string* out, const v1::TensorSpec& s) {
    absl::StrAppend(out, s.name(), " ", v1::DataType_Name(s.type()), "[", absl::StrJoin(s.shape(), ", "), "]", s.once() ? " once" : "", s.optional() ? " (optional)" : "");
  });
}

std::string Versions(const v1::ModelInfo& model) {
  std::string text = model.versions().empty() ? "none" : absl::StrJoin(model.versions(), ", ");
  const auto name = [](std::string* out, const v1::PinnedVersion& pinned) { out->append(pinned.version()); };
  if (!model.pinned().empty()) absl::StrAppend(&text, " (pinned by sessions: ", absl::StrJoin(model.pinned(), ", ", name), ")");
  return text;
}

absl::Status Run(const Connection& connection, bool json) {
  LSTM_ASSIGN_OR_RETURN(auto client, connection.Connect());
  LSTM_ASSIGN_OR_RETURN(const auto models, client->ListModels());
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const v1::ModelInfo& model : models) {
    if (!json) {
      std::cout << model.name() << "  version " << Versions(model) << ", " << model.parameters() << " parameters, "
                << model.state_bytes() << " bytes of state a session\n  " << model.description() << "\n  in:    " << Text(model.inputs())
                << "\n  out:   " << Text(model.outputs()) << "\n  state: " << Text(model.state()) << "\n";
      if (!model.not_streamable().empty()) std::cout << "  no sessions: " << model.not_streamable() << "\n";
      if (model.predict_outputs_size() > 0) {
        std::cout << "  whole sequences, in:  " << Text(model.predict_inputs()) << "\n  whole sequences, out: " << Text(model.predict_outputs()) << "\n";
      }
      continue;
    }
    nlohmann::ordered_json one = {{"name", model.name()}};
    one["versions"] = std::vector<std::string>(model.versions().begin(), model.versions().end());
    one["latest"] = model.latest();
    one["pinned"] = nlohmann::ordered_json::array();
    for (const v1::PinnedVersion& pinned : model.pinned()) one["pinned"].push_back(pinned.version());
    for (const auto& [key, specs] : {std::pair{"inputs", &model.inputs()}, {"outputs", &model.outputs()}, {"state", &model.state()}, {"predict_inputs", &model.predict_inputs()}, {"predict_outputs", &model.predict_outputs()}}) {
      one[key] = nlohmann::ordered_json::array();
      for (const v1::TensorSpec& spec : *specs) one[key].push_back(Json(spec));
    }
    if (!model.not_streamable().empty()) one["not_streamable"] = model.not_streamable();
    all.push_back(one);
  }
  if (json) std::cout << nlohmann::ordered_json{{"models", all}}.dump() << "\n";
  return absl::OkStatus();
}

}  // namespace

void AddModelsCommand(CLI::App& app, const Connection& connection, absl::Status& result) {
  CLI::App* command = app.add_subcommand("models", "List the models that are served");
  auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "As JSON");
  command->callback([&connection, &result, json] { result = Run(connection, *json); });
}

}  // namespace lstm::client
