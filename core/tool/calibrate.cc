// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "core/check/input_squares.h"
#include "core/check/walk.h"
#include "core/import/scales_file.h"
#include "core/tool/tool.h"

namespace lstm::core {
namespace {

struct Options {
  std::string directory, output = "int8_scales.safetensors";
  std::vector<std::string> inputs;
  uint64_t steps = std::numeric_limits<uint64_t>::max();
  Engine engine = Engine::kAuto;
};

// Of one matrix: what is lost with the scales of least squares and with those chosen, each column counting as measured.
struct Lost {
  double plain = 0, chosen = 0;
};

// How far the outputs of a rounded model are from those in float32.
struct Distance {
  double largest = 0, squares = 0;
  uint64_t count = 0;
  void Add(float found, float right) {
    const double d = std::fabs(static_cast<double>(found) - static_cast<double>(right));
    largest = std::isnan(d) ? INFINITY : std::max(largest, d);
    squares += std::isnan(d) ? INFINITY : d * d;
    ++count;
  }
  double rms() const { return std::sqrt(squares / static_cast<double>(std::max<uint64_t>(count, 1))); }
};

std::vector<float> ChooseScales(const InputSquares& squares, size_t m, Lost& lost) {
  const RoundedMatrix& matrix = squares.matrices()[m];
  std::vector<float> scales;
  for (int64_t r = 0; r < matrix.rows(); ++r) {
    const auto row = matrix.row(r);
    if (!CanBeInt8(row)) {
      scales.push_back(1);
      continue;
    }
    const std::vector<double> columns = squares.Row(m, r);
    scales.push_back(WeightedScale(row, columns));
    lost.plain += WeightedLoss(row, columns, LeastSquaresScale(row));
    lost.chosen += WeightedLoss(row, columns, scales.back());
  }
  return scales;
}

// "fell by 12.3 %", or that it did not.
std::string Fell(double from, double to) {
  const double percent = from > 0 ? 100 * (1 - to / from) : 0;
  if (std::fabs(percent) < 0.05) return "is the same";
  return absl::StrFormat("%s by %.1f %%", percent > 0 ? "fell" : "ROSE", std::fabs(percent));
}

absl::StatusOr<std::vector<Distance>> Compare(const StepProgram& exact, const StepProgram& rounded, const std::vector<Recorded>& recordings) {
  std::vector<size_t> wanted;
  for (size_t o = 0; o < exact.declared_outputs(); ++o) wanted.push_back(o);
  std::vector<Distance> out(wanted.size());
  Walk right(exact, wanted), found(rounded, wanted);
  for (const Recorded& recorded : recordings) {
    right.Restart();
    found.Restart();
    for (uint64_t t = 0; t < recorded.steps; ++t) {
      LSTM_RETURN_IF_ERROR(right.Step(recorded.inputs, t));
      LSTM_RETURN_IF_ERROR(found.Step(recorded.inputs, t));
      for (const size_t o : wanted) {
        if (exact.outputs()[o].dtype != DType::kF32) continue;
        for (size_t i = 0; i < right.output(o).size(); ++i) out[o].Add(found.output(o)[i], right.output(o)[i]);
      }
    }
  }
  return out;
}

// `scales`: null for those of least squares.
absl::StatusOr<std::vector<Distance>> DistanceOfRounded(const StepProgram& exact, const RowScales* scales, const std::vector<Recorded>& recordings, const StepProgram::Options& options) {
  auto model = std::make_shared<Model>(exact.model());
  if (scales == nullptr) RoundWeightsToInt8(*model);
  if (scales != nullptr) LSTM_RETURN_IF_ERROR(RoundWeightsToInt8(*model, *scales));
  LSTM_ASSIGN_OR_RETURN(const auto rounded, StepProgram::Compile(std::move(model), options));
  return Compare(exact, *rounded, recordings);
}

void PrintOutputs(const StepProgram& exact, const std::vector<Distance>& plain, const std::vector<Distance>& chosen) {
  std::cout << "\ndifference from float32, over the same steps: with least squares, with these scales\n";
  size_t largest = 0, rms = 0, both = 0;
  for (size_t o = 0; o < plain.size(); ++o) {
    std::cout << absl::StrFormat("  %s: largest %.3g, %.3g (%s); root mean square %.3g, %.3g (%s)\n", exact.outputs()[o].name, plain[o].largest, chosen[o].largest,
                                 Fell(plain[o].largest, chosen[o].largest), plain[o].rms(), chosen[o].rms(), Fell(plain[o].rms(), chosen[o].rms()));
    const bool less = chosen[o].largest < plain[o].largest, less_rms = chosen[o].rms() < plain[o].rms();
    largest += less ? 1 : 0;
    rms += less_rms ? 1 : 0;
    both += less && less_rms ? 1 : 0;
  }
  std::cout << absl::StrFormat("closer to float32 with these scales, on these steps: %d of %d outputs by the largest difference, %d by the root mean square, %d by both\n", largest, plain.size(), rms, both);
  if (both < plain.size()) std::cout << (largest + rms == 0 ? "they are worth nothing here: round_weights alone does as well\n" : "not every output gained: they may not be worth it\n");
}

void PrintLines(const Options& options, const ImportNotes& notes) {
  std::cout << "\nwritten: " << options.output << ", to lie beside model.textproto, which has these lines and no others of their names:\n\n";
  if (notes.is_onnx && !absl::StrContains(notes.manifest, "onnx {")) std::cout << "onnx { }\n";
  std::cout << "round_weights: INT8\nround_scales: \"" << std::filesystem::path(options.output).filename().string() << "\"\n";
}

absl::Status Run(const Options& options) {
  if (options.inputs.empty()) return absl::InvalidArgumentError("--input is missing");
  if (std::filesystem::exists(options.output)) return absl::AlreadyExistsError(absl::StrCat("'", options.output, "' exists already"));
  const StepProgram::Options compile = {.max_batch = 1, .engine = options.engine};
  ImportNotes notes;
  LSTM_ASSIGN_OR_RETURN(const Loaded loaded, LoadProgram(options.directory, compile, &notes, {}, /*exact=*/true));
  if (!loaded.steps) return absl::InvalidArgumentError("the model has no steps: whole sequences are rounded by least squares alone");
  LSTM_ASSIGN_OR_RETURN(std::vector<Recorded> recordings, ReadRecordings(*loaded.steps, options.inputs));
  InputSquares squares(loaded.steps);
  if (squares.matrices().empty()) return absl::InvalidArgumentError("the model has no matrix that is rounded");
  uint64_t steps = 0;
  for (Recorded& recorded : recordings) {
    recorded.steps = std::min(recorded.steps, options.steps);
    steps += recorded.steps;
    LSTM_RETURN_IF_ERROR(squares.Run(recorded.inputs, recorded.steps));
  }
  std::cout << steps << " steps of " << recordings.size() << (recordings.size() == 1 ? " recording" : " recordings") << "; what is lost in each matrix, its columns counting as what they met:\n";
  RowScales scales;
  for (size_t m = 0; m < squares.matrices().size(); ++m) {
    const RoundedMatrix& matrix = squares.matrices()[m];
    Lost lost;
    scales[matrix.name] = ChooseScales(squares, m, lost);
    std::cout << "  " << matrix.name << " [" << matrix.rows() << ", " << matrix.width() << "]: " << Fell(lost.plain, lost.chosen) << "\n";
  }
  LSTM_ASSIGN_OR_RETURN(const auto plain, DistanceOfRounded(*loaded.steps, nullptr, recordings, compile));
  LSTM_ASSIGN_OR_RETURN(const auto chosen, DistanceOfRounded(*loaded.steps, &scales, recordings, compile));
  PrintOutputs(*loaded.steps, plain, chosen);
  if (loaded.sequence) std::cout << "whole sequences have their own passes, which are rounded by least squares all the same\n";
  const std::string file = FormatScales(scales);
  LSTM_RETURN_IF_ERROR(WriteNewFile(options.output, std::as_bytes(std::span(file))));
  PrintLines(options, notes);
  return absl::OkStatus();
}

}  // namespace

void AddCalibrateCommand(CLI::App& app, absl::Status& result) {
  CLI::App* command = app.add_subcommand("calibrate", "Choose the scales of round_weights: INT8 by recorded inputs, and say what they are worth");
  auto o = std::make_shared<Options>();
  command->add_option("DIR", o->directory, "Directory with model.textproto and the weights, or an ONNX file")->required();
  command->add_option("--input", o->inputs, "Recorded input, .npy [T, ...]; NAME=FILE where the model has several; more files are more recordings");
  command->add_option("--steps", o->steps, "At most so many steps of each recording")->check(CLI::PositiveNumber);
  command->add_option("-o,--output", o->output, "The new file of scales")->capture_default_str();
  AddEngineOption(*command, o->engine);
  command->callback([&result, o] { result = Run(*o); });
}

}  // namespace lstm::core
