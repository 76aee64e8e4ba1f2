# Every dependency is a Debian package. The order and the forms matter: see the remarks.
find_package(Threads REQUIRED)
find_package(Protobuf MODULE REQUIRED)  # Debian ships no CONFIG file for it
find_package(absl CONFIG REQUIRED)

# gRPC's find module would ask pkg-config for re2, which takes 18 seconds on Debian 13.
find_library(RE2_LIBRARY NAMES re2 REQUIRED)
add_library(re2::re2 INTERFACE IMPORTED)
target_link_libraries(re2::re2 INTERFACE "${RE2_LIBRARY}")
set(re2_FOUND TRUE)
find_package(gRPC CONFIG REQUIRED)

# The package's own CMake config asks for OpenCL headers on Debian 12.
find_library(DNNL_LIBRARY NAMES dnnl REQUIRED)
find_path(DNNL_INCLUDE_DIR NAMES oneapi/dnnl/dnnl.hpp REQUIRED)
add_library(dnnl::dnnl UNKNOWN IMPORTED)
set_target_properties(dnnl::dnnl PROPERTIES
  IMPORTED_LOCATION "${DNNL_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${DNNL_INCLUDE_DIR}")
find_package(OpenMP REQUIRED COMPONENTS CXX)  # only to tell oneDNN: one thread a call

find_package(OpenSSL REQUIRED COMPONENTS Crypto SSL)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)

find_path(XXHASH_INCLUDE_DIR NAMES xxhash.h REQUIRED)
find_library(XXHASH_LIBRARY NAMES xxhash REQUIRED)
add_library(xxhash::xxhash UNKNOWN IMPORTED)
set_target_properties(xxhash::xxhash PROPERTIES
  IMPORTED_LOCATION "${XXHASH_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${XXHASH_INCLUDE_DIR}")

find_path(ISAL_INCLUDE_DIR NAMES isa-l/crc.h REQUIRED)
find_library(ISAL_LIBRARY NAMES isal REQUIRED)
add_library(isal::isal UNKNOWN IMPORTED)
set_target_properties(isal::isal PROPERTIES
  IMPORTED_LOCATION "${ISAL_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${ISAL_INCLUDE_DIR}")

# The package's own CMake config asks for curl, which only its push client needs.
find_path(PROMETHEUS_INCLUDE_DIR NAMES prometheus/exposer.h REQUIRED)
foreach(part core pull)
  find_library(PROMETHEUS_${part}_LIBRARY NAMES prometheus-cpp-${part} REQUIRED)
  add_library(prometheus::${part} UNKNOWN IMPORTED)
  set_target_properties(prometheus::${part} PROPERTIES
    IMPORTED_LOCATION "${PROMETHEUS_${part}_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${PROMETHEUS_INCLUDE_DIR}")
endforeach()

# Headers alone. CMake's own find module for it warns since 3.30.
find_path(BOOST_INCLUDE_DIR NAMES boost/beast/http.hpp REQUIRED)
add_library(boost::boost INTERFACE IMPORTED)
target_include_directories(boost::boost INTERFACE "${BOOST_INCLUDE_DIR}")

find_path(SNDFILE_INCLUDE_DIR NAMES sndfile.h REQUIRED)
find_library(SNDFILE_LIBRARY NAMES sndfile REQUIRED)
add_library(sndfile::sndfile UNKNOWN IMPORTED)
set_target_properties(sndfile::sndfile PROPERTIES
  IMPORTED_LOCATION "${SNDFILE_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${SNDFILE_INCLUDE_DIR}")

if(LSTM_TESTS)
  find_package(GTest CONFIG QUIET)
  if(NOT GTest_FOUND)
    message(STATUS "GoogleTest is not installed: the tests are left out (./test installs it)")
    set(LSTM_TESTS OFF)
  endif()
endif()
