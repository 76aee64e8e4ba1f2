// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/check/recording.h"
#include "core/check/self_check.h"
#include "core/import/hash_list.h"
#include "core/import/mapped_file.h"
#include "core/tool/tool.h"

namespace lstm::core {
namespace {

namespace fs = std::filesystem;

constexpr int kRecordedSteps = 16;

struct Options {
  std::string source, output;
  VerifyOptions recorded;
  Engine engine = Engine::kAuto;
};

// Copies the files that a version is made of, records what they compute, and lists them all with their hashes.
absl::Status Fill(const fs::path& source, const std::vector<std::string>& files, const fs::path& partial,
                  const Options& options) {
  std::string list;
  const auto add = [&](const std::string& name, std::span<const std::byte> bytes) {
    absl::StrAppend(&list, Sha256Hex(bytes), "  ", name, "\n");
    return WriteNewFile(partial / name, bytes);
  };
  for (const std::string& name : files) {
    LSTM_ASSIGN_OR_RETURN(const MappedFile file,
                          MappedFile::Open((fs::is_directory(source) ? source / name : source).string(), SIZE_MAX));
    LSTM_RETURN_IF_ERROR(add(name, file.bytes()));
  }
  const StepProgram::Options compile = {.max_batch = 64, .engine = options.engine};
  LSTM_ASSIGN_OR_RETURN(Loaded loaded, LoadProgram(partial.string(), compile, nullptr));
  if (loaded.steps) {
    LSTM_ASSIGN_OR_RETURN(const Recording recording, Recording::Make(*loaded.steps, kRecordedSteps));
    const std::string bytes = recording.Format();
    if (recording.steps() > 0) LSTM_RETURN_IF_ERROR(add(Recording::kName, std::as_bytes(std::span(bytes))));
  }
  LSTM_RETURN_IF_ERROR(WriteNewFile(partial / HashList::kName, std::as_bytes(std::span(list))));
  // And now as a server will: what is read is what was written.
  ImportNotes notes;
  LSTM_ASSIGN_OR_RETURN(loaded, LoadProgram(partial.string(), compile, &notes));
  if (loaded.steps) {
    LSTM_RETURN_IF_ERROR(SelfCheck(*loaded.steps));
    LSTM_ASSIGN_OR_RETURN(const auto read, Recording::Read(partial.string()));
    if (read) LSTM_RETURN_IF_ERROR(read->Replay(*loaded.steps));
  }
  if (loaded.sequence) {
    for (const auto& stage : loaded.sequence->stages()) LSTM_RETURN_IF_ERROR(SelfCheck(*stage, /*any_state=*/true));
  }
  if (!options.recorded.inputs.empty()) LSTM_RETURN_IF_ERROR(VerifyRecorded(loaded, options.recorded));
  for (const std::string& name : notes.unused) std::cout << "not used by any layer: tensor '" << name << "'\n";
  std::cout << "model hash " << absl::BytesToHexString(loaded.model->hash) << "\n" << list;
  return absl::OkStatus();
}

absl::Status Run(const Options& options) {
  const fs::path source = fs::absolute(options.source).lexically_normal(),
                 target = (fs::absolute(options.output) / "").lexically_normal().parent_path();
  std::error_code error;
  if (fs::exists(target, error) && (!fs::is_directory(target, error) || !fs::is_empty(target, error))) {
    return absl::AlreadyExistsError(
        absl::StrCat("'", options.output, "' exists already: a version is never changed, only followed by the next"));
  }
  ImportNotes notes;
  LSTM_RETURN_IF_ERROR(LoadProgram(source.string(), {.max_batch = 1, .engine = options.engine}, &notes).status());
  if (!fs::is_directory(source)) notes.files = {"model.onnx"};
  fs::create_directories(target.parent_path(), error);
  const fs::path partial = target.parent_path() / absl::StrCat(".", target.filename().string(), ".",
                                                               getpid());  // servers leave names with a dot alone
  if (!fs::create_directory(partial, error))
    return absl::UnavailableError(absl::StrCat("'", partial.string(), "': ", error.message()));
  absl::Status status = Fill(source, notes.files, partial, options);
  if (status.ok()) {
    fs::remove(target, error);  // an empty one
    fs::rename(partial, target, error);
    if (error) status = absl::UnavailableError(absl::StrCat("'", target.string(), "': ", error.message()));
  }
  if (!status.ok()) {
    fs::remove_all(partial, error);
    return status;
  }
  std::cout << "packed: " << options.output << "; `sha256sum -c " << HashList::kName << "` there says the same\n";
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteNewFile(const fs::path& path, std::span<const std::byte> bytes) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  bool good = fd >= 0;
  while (good && !bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    good = n > 0;
    if (good) bytes = bytes.subspan(static_cast<size_t>(n));
  }
  good = good && fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  return good ? absl::OkStatus()
              : absl::UnavailableError(absl::StrCat("'", path.string(), "': ", std::strerror(error)));
}

void AddPackCommand(CLI::App& app, absl::Status& result) {
  CLI::App* command = app.add_subcommand("pack",
                                         "Copy a model into a directory of a version, checked, with the hashes of its "
                                         "files: a server takes it as it is or not at all");
  auto o = std::make_shared<Options>();
  command->add_option("DIR", o->source, "Directory with model.textproto and the weights, or an ONNX file")->required();
  command->add_option("--output", o->output, "The new directory, REPOSITORY/NAME/VERSION")->required();
  AddRecordedOptions(*command, o->recorded);
  AddEngineOption(*command, o->engine);
  command->callback([&result, o] { result = Run(*o); });
}

}  // namespace lstm::core
