// SPDX-License-Identifier: MIT
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include "core/import/manifest_import.h"
#include "tests/fuzz/run_model.h"
#include "tests/fuzz/seeds.h"

// A manifest over weights that have what the seeds ask for, and over a graph.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lstm;
  static const std::string weights = testing::SeedWeights(), graph = testing::SeedGraph();
  const std::string text(reinterpret_cast<const char*>(data), size);
  auto model = core::ImportManifest(text, std::as_bytes(std::span(weights)));
  if (model.ok()) testing::RunAccepted(*model);
  manifest::v1::Manifest parsed;
  google::protobuf::TextFormat::Parser parser;
  struct Quiet : google::protobuf::io::ErrorCollector {
    void AddError(int, int, const std::string&) override {}
  } quiet;
  parser.RecordErrorsTo(&quiet);
  if (text.size() < 4096 && parser.ParseFromString(text, &parsed) && parsed.has_onnx()) {
    auto imported = core::ImportOnnx(std::as_bytes(std::span(graph)), parsed);
    if (imported.ok()) testing::RunAccepted(*imported);
  }
  return 0;
}
