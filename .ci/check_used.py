#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds what a file uses against what it includes, itself or through our own headers: what one library's headers bring along by
chance, another version's do not."""
import functools
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
ALGORITHMS = ("all_of|any_of|clamp|copy|copy_n|count|count_if|equal|fill|fill_n|find|find_if|for_each|generate|is_sorted|lower_bound|max|max_element|min|"
              "min_element|none_of|nth_element|partition|remove_if|reverse|rotate|search|shuffle|sort|stable_sort|transform|unique|upper_bound")
USES = {  # what is written -> the header that has it
    r"absl::(StrCat|StrAppend|AlphaNum)\b": "absl/strings/str_cat.h", r"absl::StrJoin\b": "absl/strings/str_join.h",
    r"absl::StrSplit\b": "absl/strings/str_split.h", r"absl::SimpleAto\w+": "absl/strings/numbers.h", r"absl::Cord\b": "absl/strings/cord.h",
    r"absl::(StrContains|StartsWith|EndsWith|EqualsIgnoreCase)\b": "absl/strings/match.h", r"absl::StatusOr\b": "absl/status/statusor.h",
    rf"std::({ALGORITHMS})\(": "algorithm", r"std::(accumulate|iota|inner_product)\b": "numeric", r"std::array<": "array", r"std::atomic\b": "atomic",
    r"std::(bit_cast|popcount|countr)": "bit", r"std::chrono": "chrono", r"std::(abs|exp|floor|isfinite|isnan|log|log1p|lround|pow|sqrt|tanh)\(": "cmath",
    r"std::condition_variable": "condition_variable", r"std::(FILE|fflush|fopen|fprintf|fputs|printf|snprintf)\b": "cstdio",
    r"std::(abort|atoi|exit|getenv|system)\b": "cstdlib", r"std::(memchr|memcmp|memcpy|memset|strerror|strlen)\b": "cstring", r"std::deque<": "deque",
    r"std::filesystem": "filesystem", r"std::[io]?fstream": "fstream", r"std::function<": "functional", r"std::(async|future|promise)\b": "future",
    r"std::(setfill|setprecision|setw)": "iomanip", r"std::(cerr|cin|cout)\b": "iostream", r"std::numeric_limits": "limits", r"std::(multi)?map<": "map",
    r"std::(unique_ptr|shared_ptr|make_unique|make_shared)\b": "memory", r"std::(lock_guard|mutex|unique_lock)\b": "mutex",
    r"std::(nullopt|optional)\b": "optional", r"std::(mt19937|normal_distribution|random_device|uniform_)": "random", r"std::set<": "set", r"std::span\b": "span",
    r"std::[io]?stringstream": "sstream", r"std::string_view": "string_view", r"std::(this_thread|thread)\b": "thread", r"std::tuple|std::tie\(": "tuple",
    r"std::unordered_map<": "unordered_map", r"std::(variant|visit)\b": "variant"}


@functools.cache
def includes(file):
    found = set(re.findall(r'#include [<"]([^>"]+)[>"]', (ROOT / file).read_text()))
    return frozenset(found.union(*(includes(f) for f in found if (ROOT / f).is_file())))


def main():
    bad = 0
    for file in subprocess.run(["git", "ls-files", "*.cc", "*.h"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split():
        code = re.sub(r"//.*", "", (ROOT / file).read_text())
        for use, header in USES.items():
            if (found := re.search(use, code)) and header not in includes(file):
                print(f"used: {file} uses {found[0].rstrip('(<')} without {header}")
                bad = 1
    sys.exit(bad)


if __name__ == "__main__":
    main()
