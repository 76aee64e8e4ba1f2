// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <vector>

#include "lstm/v1/prediction.grpc.pb.h"
#include "server/models/model_repository.h"
#include "server/rpc/shard_loop.h"

namespace lstm::server {

// Arms every unary method of Prediction on `loop`, on its thread. Predict runs on the loop that took it; what concerns all
// sessions is asked of every loop of `loops`, what concerns one of the loop that has it; both must outlive the server.
void ArmUnaryCalls(ShardLoop* loop, v1::Prediction::AsyncService* service, std::shared_ptr<const ModelRepository> models,
                   const std::vector<std::unique_ptr<ShardLoop>>* loops, const SessionDirectory* directory);

}  // namespace lstm::server
