// SPDX-License-Identifier: MIT
#include "server/app/server_main.h"

int main(int argc, char** argv) { return lstm::server::ServerMain(argc, argv); }
