# lstm_library(NAME SOURCES ... [DEPS ...] [PRIVATE_DEPS ...]): one folder, one static library. Its link list is what its
# files may include (.ci/check_includes holds every #include against it).
# lstm_test(NAME SOURCES ... [DEPS ...] [LABELS ...]): one *_test.cc, one executable, one ctest entry a test case.
add_library(lstm_warnings INTERFACE)
target_compile_options(lstm_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Werror)
# g++ 12 sees overlapping copies inside std::string that are none (GCC bug 105329).
target_compile_options(lstm_warnings INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)

add_library(lstm_options INTERFACE)
target_compile_definitions(lstm_options INTERFACE LSTM_VERSION="${PROJECT_VERSION}")
target_include_directories(lstm_options INTERFACE ${CMAKE_SOURCE_DIR})
if(LSTM_SANITIZE)
  target_compile_options(lstm_options INTERFACE -fsanitize=${LSTM_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(lstm_options INTERFACE -fsanitize=${LSTM_SANITIZE})
  if(LSTM_SANITIZE MATCHES "undefined")
    # Debian's abseil 20240722 does not compile with these under UBSan.
    target_compile_options(lstm_options INTERFACE
      -fno-sanitize=null,nonnull-attribute,returns-nonnull-attribute -fno-sanitize-recover=undefined)
    # A third of what g++ takes for a file; the fuzzers' build, by clang, has these too.
    target_compile_options(lstm_options INTERFACE
      $<$<CXX_COMPILER_ID:GNU>:-fno-sanitize=alignment,object-size,pointer-overflow,vptr>)
  endif()
endif()

function(lstm_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC lstm_options ${arg_DEPS} PRIVATE lstm_warnings ${arg_PRIVATE_DEPS})
endfunction()

function(lstm_binary name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE lstm_options lstm_warnings ${arg_DEPS})
endfunction()

# A test's own code need not be fast, but soon there; what it tests is built as it is shipped.
set(test_optimization -O1)
if(LSTM_SANITIZE)
  set(test_optimization -O0)
endif()
function(lstm_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  if(LSTM_SANITIZE)
    math(EXPR arg_TIMEOUT "${arg_TIMEOUT} * 5")
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_compile_options(${name} PRIVATE ${test_optimization})
  target_link_libraries(${name} PRIVATE lstm_options lstm_warnings ${arg_DEPS} GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}")
endfunction()
