// SPDX-License-Identifier: MIT
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Hands an error on to the caller.
#define LSTM_RETURN_IF_ERROR(expr)                          \
  do {                                                      \
    if (absl::Status status_ = (expr); !status_.ok()) {     \
      return status_;                                       \
    }                                                       \
  } while (false)

#define LSTM_CONCAT_INNER_(a, b) a##b
#define LSTM_CONCAT_(a, b) LSTM_CONCAT_INNER_(a, b)

// LSTM_ASSIGN_OR_RETURN(auto x, F()): x = the value of F(), or return its error.
#define LSTM_ASSIGN_OR_RETURN(lhs, expr) LSTM_ASSIGN_OR_RETURN_IMPL_(LSTM_CONCAT_(statusor_, __LINE__), lhs, expr)
#define LSTM_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                \
  if (!tmp.ok()) {                                  \
    return tmp.status();                            \
  }                                                 \
  lhs = std::move(*tmp)
