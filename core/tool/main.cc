// SPDX-License-Identifier: MIT
#include "core/tool/tool_main.h"

int main(int argc, char** argv) { return lstm::core::ModelToolMain(argc, argv); }
