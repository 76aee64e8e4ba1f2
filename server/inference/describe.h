// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "inference/grpc_service.pb.h"
#include "lstm/v1/model.pb.h"
#include "server/models/model_repository.h"

// What the server and its models are, in the words of the Open Inference Protocol. Pure functions.
namespace lstm::server {

void DescribeServer(bool admin, inference::ServerMetadataResponse* response);
void DescribeModel(const v1::ModelInfo& info, inference::ModelMetadataResponse* response);
// `ttl_s`: how long a sequence lives without a request; `max_sessions`: how many may live.
void DescribeConfig(const v1::ModelInfo& info, uint32_t ttl_s, uint64_t max_sessions, inference::ModelConfig* config);
void DescribeIndex(const std::vector<ServedModelPtr>& open, const std::vector<ServedModelPtr>& pinned, inference::RepositoryIndexResponse* response);

}  // namespace lstm::server
