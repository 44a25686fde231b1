#include "anyfp8/base/threads.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "anyfp8/base/error.h"

namespace anyfp8 {
namespace {

TEST(Threads, CountIsSetAndChecked) {
  const int before = num_threads();
  EXPECT_GE(before, 1);
  set_num_threads(3);
  EXPECT_EQ(num_threads(), 3);
  EXPECT_THROW(set_num_threads(0), Error);
  EXPECT_THROW(set_num_threads(1025), Error);
  EXPECT_EQ(num_threads(), 3);
  set_num_threads(before);
}

TEST(Threads, StaticSplitCoversEverythingOnceInWholeGranules) {
  for (int64_t count : {0, 1, 3, 4, 5, 127, 4096}) {
    for (int64_t granule : {1, 4, 64}) {
      for (int parts : {1, 2, 3, 7, 64}) {
        int64_t next = 0, smallest = count, largest = 0;
        for (int part = 0; part < parts; ++part) {
          const auto [begin, end] = static_split(count, granule, part, parts);
          EXPECT_EQ(begin, next);
          EXPECT_LE(begin, end);
          EXPECT_TRUE(begin % granule == 0 || begin == count);
          next = end;
          smallest = std::min(smallest, end - begin);
          largest = std::max(largest, end - begin);
        }
        EXPECT_EQ(next, count);
        EXPECT_LE(largest - smallest, 2 * granule - 1);  // even, up to a granule and a ragged end
      }
    }
  }
}

}  // namespace
}  // namespace anyfp8
