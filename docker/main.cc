// SPDX-License-Identifier: MIT
#include <string_view>

#include "core/tool/tool_main.h"
#include "server/app/server_main.h"

// lstm-server and lstm-model as one program, which is the one that it is called: both are mostly the same kernels, and the image is to be small.
int main(int argc, char** argv) {
  const std::string_view name = argc > 0 ? argv[0] : "";
  return name.ends_with("lstm-model") ? lstm::core::ModelToolMain(argc, argv) : lstm::server::ServerMain(argc, argv);
}
