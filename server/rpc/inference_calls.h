// SPDX-License-Identifier: MIT
#pragma once

#include "server/rpc/inference_stream.h"

namespace lstm::server {

// Arms every unary method of GRPCInferenceService on the loop of `calls`, on its thread.
void ArmInferenceCalls(const InferenceCalls& calls);

}  // namespace lstm::server
