// SPDX-License-Identifier: MIT
#include "core/base/shape.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lstm::core {

absl::StatusOr<int64_t> ElementCount(const Shape& shape) {
  int64_t count = 1;
  bool zero = false;
  for (int64_t dim : shape) {
    if (dim < 0) {
      return absl::InvalidArgumentError(absl::StrCat("negative dimension in shape ", ShapeString(shape)));
    }
    if (dim == 0) {
      zero = true;
    } else if (count > kMaxElements / dim) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape ", ShapeString(shape), " has more than ", kMaxElements, " elements"));
    } else {
      count *= dim;
    }
  }
  return zero ? 0 : count;
}

int64_t CheckedElementCount(const Shape& shape) { return ElementCount(shape).value(); }

std::string ShapeString(const Shape& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

}  // namespace lstm::core
