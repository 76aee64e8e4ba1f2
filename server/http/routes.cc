// SPDX-License-Identifier: MIT
#include "server/http/routes.h"

#include <initializer_list>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/http/json_codec.h"

namespace lstm::server {
namespace {

int HttpStatus(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk: return 200;
    case absl::StatusCode::kNotFound: return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted: return 409;
    case absl::StatusCode::kPermissionDenied: return 403;
    case absl::StatusCode::kUnauthenticated: return 401;
    case absl::StatusCode::kResourceExhausted: return 429;
    case absl::StatusCode::kUnavailable: return 503;
    case absl::StatusCode::kDeadlineExceeded: return 504;
    case absl::StatusCode::kUnimplemented: return 501;
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kDataLoss: return 500;
    default: return 400;
  }
}

RestResponse Json(std::string body) {
  RestResponse response;
  response.body = std::move(body);
  return response;
}

RestResponse Empty(int status) {
  RestResponse response;
  response.status = status;
  return response;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// "/v2/models/a%2Fb" to {"v2", "models", "a/b"}; what is behind a question mark is left out.
std::vector<std::string> Segments(std::string_view target) {
  target = target.substr(0, target.find('?'));
  std::vector<std::string> out;
  for (size_t i = 0; i < target.size(); ++i) {
    if (target[i] == '/') {
      out.emplace_back();
      continue;
    }
    if (out.empty()) return {};
    const int high = target[i] == '%' && i + 2 < target.size() ? HexDigit(target[i + 1]) : -1;
    const int low = high >= 0 ? HexDigit(target[i + 2]) : -1;
    out.back().push_back(low >= 0 ? static_cast<char>(high * 16 + low) : target[i]);
    if (low >= 0) i += 2;
  }
  while (!out.empty() && out.back().empty()) out.pop_back();
  return out;
}

absl::StatusOr<size_t> JsonBytes(const RestRequest& request) {
  if (request.json_bytes.empty()) return request.body.size();
  uint64_t bytes = 0;
  if (!absl::SimpleAtoi(request.json_bytes, &bytes) || bytes > request.body.size()) {
    return absl::InvalidArgumentError(absl::StrCat("Inference-Header-Content-Length is not a number of 0 to ", request.body.size(), ", the bytes of the body"));
  }
  return static_cast<size_t>(bytes);
}

void Infer(InferenceFront* front, const std::string& model, const std::string& version, const RestRequest& request, RestDone done) {
  auto job = std::make_shared<InferJob>();
  BinaryOutputs binary;
  const absl::Status read = [&]() -> absl::Status {
    LSTM_ASSIGN_OR_RETURN(const size_t json_bytes, JsonBytes(request));
    return ReadInferRequest(request.body, json_bytes, &job->request, &binary);
  }();
  if (!read.ok()) return done(RestError(read));
  job->request.set_model_name(model);
  job->request.set_model_version(version);
  job->holder = request.holder;
  job->principal = request.caller.principal;
  job->done = [job = job.get(), binary = std::move(binary), later = request.later, done = std::move(done)](const absl::Status& status) {
    if (!status.ok()) return done(RestError(status));
    later([job = job->shared_from_this(), binary, done] {
      InferBody body = WriteInferResponse(job->response, binary);
      RestResponse response = Json(std::move(body.body));
      response.binary = body.binary;
      response.json_bytes = body.json_bytes;
      done(std::move(response));
    });
  };
  front->Infer(job);
}

void Statistics(InferenceFront* front, const std::string& model, const std::string& version, RestDone done) {
  front->ModelStatistics(model, version, [done = std::move(done)](const absl::Status& status, const inference::ModelStatisticsResponse& response) {
    done(status.ok() ? Json(MessageJson(response)) : RestError(status));
  });
}

ModelAdmin::Done Finished(RestDone done) {
  return [done = std::move(done)](const absl::Status& status) { done(status.ok() ? Empty(200) : RestError(status)); };
}

void Load(InferenceFront* front, const std::string& model, const RestRequest& asked, bool load, RestDone done) {
  inference::RepositoryModelLoadRequest request;
  if (const absl::Status read = ReadLoadRequest(asked.body, &request); !read.ok()) return done(RestError(read));
  request.set_model_name(model);
  if (load) return front->LoadModel(request, asked.caller.admin, Finished(std::move(done)));
  inference::RepositoryModelUnloadRequest unload;
  unload.set_model_name(model);
  front->UnloadModel(unload, asked.caller.admin, Finished(std::move(done)));
}

// A message that is filled by `fill`, as JSON.
template <typename Message, typename Fill>
RestResponse Described(Fill fill) {
  Message message;
  const absl::Status status = fill(&message);
  return status.ok() ? Json(MessageJson(message)) : RestError(status);
}

// Everything below /v2/models/M or /v2/models/M/versions/V; `rest` is what is left.
void RouteModel(InferenceFront* front, const std::string& model, const std::string& version, const std::string& rest, const RestRequest& request, RestDone done) {
  if (rest == "infer") return Infer(front, model, version, request, std::move(done));
  if (rest == "stats") return Statistics(front, model, version, std::move(done));
  if (rest == "config") {
    return done(Described<inference::ModelConfig>([&](auto* config) { return front->ModelConfig(model, version, config); }));
  }
  if (rest == "ready") {
    const absl::Status ready = front->ModelReady(model, version);
    return done(ready.ok() ? Empty(200) : RestError(ready));
  }
  done(Described<inference::ModelMetadataResponse>([&](auto* metadata) { return front->ModelMetadata(model, version, metadata); }));
}

}  // namespace

RestResponse RestError(int http_status, const std::string& message) {
  RestResponse response = Json(ErrorJson(absl::UnknownError(message)));
  response.status = http_status;
  return response;
}

RestResponse RestError(const absl::Status& status) {
  RestResponse response = Json(ErrorJson(status));
  response.status = HttpStatus(status.code());
  response.challenge = absl::IsUnauthenticated(status);
  return response;
}

bool NeedsCaller(std::string_view target) {
  const std::string_view path = target.substr(0, target.find('?'));
  return path != "/v2/health/live" && path != "/v2/health/ready";
}

void Route(InferenceFront* front, RestRequest request, RestDone done) {
  const std::vector<std::string> path = Segments(request.target);
  const auto is = [&](size_t i, std::string_view name) { return i < path.size() && path[i] == name; };
  const auto wants = [&](std::initializer_list<const char*> methods) {
    std::string allow;
    for (const char* method : methods) {
      if (request.method == method) return true;
      absl::StrAppend(&allow, allow.empty() ? "" : ", ", method);
    }
    RestResponse response = RestError(405, absl::StrCat("this address wants ", allow));
    response.allow = allow;
    done(std::move(response));
    return false;
  };
  const size_t n = path.size();
  if (!is(0, "v2")) return done(RestError(404, "nothing is here; the Open Inference Protocol is at /v2"));
  if (n == 1) {
    if (!wants({"GET"})) return;
    return done(Described<inference::ServerMetadataResponse>([&](auto* metadata) {
      front->ServerMetadata(metadata);
      return absl::OkStatus();
    }));
  }
  if (n == 3 && is(1, "health") && (is(2, "live") || is(2, "ready"))) {
    if (!wants({"GET"})) return;
    return done(Empty(is(2, "live") || front->ready() ? 200 : 503));
  }
  if (n == 3 && is(1, "models") && is(2, "stats")) {
    if (!wants({"GET"})) return;
    return Statistics(front, "", "", std::move(done));
  }
  if (n >= 3 && is(1, "models")) {
    const bool versioned = n >= 5 && is(3, "versions");
    const size_t used = versioned ? 5 : 3;
    const std::string rest = n > used ? path[used] : "";
    const bool known = n == used || (n == used + 1 && (rest == "infer" || rest == "stats" || rest == "config" || rest == "ready"));
    if (known) {
      if (!wants({rest == "infer" ? "POST" : "GET"})) return;
      return RouteModel(front, path[2], versioned ? path[4] : "", rest, request, std::move(done));
    }
  }
  if (n == 3 && is(1, "repository") && is(2, "index")) {
    if (!wants({"POST", "GET"})) return;
    const absl::StatusOr<bool> ready = ReadIndexRequest(request.body);
    if (!ready.ok()) return done(RestError(ready.status()));
    inference::RepositoryIndexResponse response;
    front->RepositoryIndex(*ready, &response);
    std::string list;
    for (const auto& model : response.models()) absl::StrAppend(&list, list.empty() ? "" : ",", MessageJson(model));
    return done(Json(absl::StrCat("[", list, "]")));
  }
  if (n == 5 && is(1, "repository") && is(2, "models") && (is(4, "load") || is(4, "unload"))) {
    if (!wants({"POST"})) return;
    return Load(front, path[3], request, is(4, "load"), std::move(done));
  }
  done(RestError(404, "nothing is here; see docs/open_inference.md for the addresses"));
}

}  // namespace lstm::server
