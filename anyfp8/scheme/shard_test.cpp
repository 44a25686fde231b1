#include "anyfp8/scheme/shard.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "anyfp8/base/mapped_file.h"
#include "anyfp8/scheme/test_checkpoint.h"

namespace anyfp8 {
namespace {

constexpr int kSizes[] = {1, 2, 3, 4, 7};

// [n, k] with scales that all differ.
Fp8Weight weight(DType dtype, Group group, int64_t n, int64_t k, DType scale_dtype = DType::kF32) {
  Fp8Weight w;
  w.scheme.weight = {dtype, group, ScaleSource::kStored, scale_dtype};
  w.data = is_float8(dtype) ? test::counting_weight(n, k).with_dtype(dtype) : test::wave(n, k, 0.37);
  if (dtype == DType::kE5M2) {
    for (int64_t i = 0; i < n * k; ++i) w.data.mutable_data()[i] &= std::byte{0xFB};  // no infinity, no NaN
  }
  w.bias = test::wave(1, n, 0.9).reshaped({n});
  if (!w.quantized()) return w;
  const Grid grid = scale_grid(group, n, k);
  std::vector<float> scales(static_cast<size_t>(grid.rows * grid.cols));
  for (size_t i = 0; i < scales.size(); ++i) {
    const auto step = static_cast<float>(i % 97);
    scales[i] = scale_dtype == DType::kE8M0 ? 100 + step : 0.01f * (1 + step);
  }
  w.scale = test::values(scale_dtype, {grid.rows, grid.cols}, scales);
  return w;
}

// Every scheme that a dialect has, with ragged grids.
std::vector<Fp8Weight> every_scheme() {
  std::vector<Fp8Weight> all;
  const auto [n, k] = Grid{333, 421};
  for (const DType dtype : {DType::kE4M3, DType::kE5M2}) {
    for (const Group group : {kPerTensor, kPerRow, kBlock128, kGroup128, kMx32, Group{64, 48}, Group{0, 128}})
      all.push_back(weight(dtype, group, n, k));
  }
  all.push_back(weight(DType::kE4M3, kMx32, n, k, DType::kE8M0));
  all.push_back(weight(DType::kF32, {}, n, k));
  all.push_back(weight(DType::kE4M3, kBlock128, 896, 896));  // cut at borders of blocks alone
  return all;
}

// The part is [rows, cols] of the whole, number for number.
void expect_part(const Fp8Weight& part, const Fp8Weight& whole, IndexRange rows, IndexRange cols) {
  check_weight(part);
  ASSERT_EQ(part.data.shape(), (Shape{rows.end - rows.begin, cols.end - cols.begin}));
  const HostTensor got = dequantize(part, 0, part.n()), want = dequantize(whole, rows.begin, rows.end);
  for (int64_t r = 0; r < part.n(); ++r) {
    ASSERT_EQ(std::memcmp(got.as<float>() + r * part.k(), want.as<float>() + r * whole.k() + cols.begin,
                          static_cast<size_t>(part.k()) * 4),
              0)
        << scheme_text(whole.scheme) << " became " << scheme_text(part.scheme) << ", row " << r;
  }
}

TEST(Shard, KeepsEveryNumberOfEveryScheme) {
  for (const Fp8Weight& whole : every_scheme()) {
    for (const int size : kSizes) {
      for (int rank = 0; rank < size; ++rank) {
        const IndexRange n{0, whole.n()}, k{0, whole.k()};
        const IndexRange own_n = shard_range(whole.n(), rank, size),
                         own_k = shard_range(whole.k(), rank, size);
        const Fp8Weight column = shard(whole, Split::kColumn, rank, size);
        expect_part(column, whole, own_n, k);
        EXPECT_EQ(
            std::memcmp(column.bias.data(), whole.bias.as<float>() + own_n.begin, column.bias.size_bytes()),
            0);
        const Fp8Weight row = shard(whole, Split::kRow, rank, size);
        expect_part(row, whole, n, own_k);
        EXPECT_EQ(row.bias.defined(), rank == 0) << "the bias is added once";
      }
    }
  }
}

// vLLM refuses these or scales them wrongly: a range that begins and ends anywhere in blocks and MX groups.
TEST(Shard, CutsAnywhere) {
  for (const Fp8Weight& whole :
       {weight(DType::kE4M3, kBlock128, 300, 300), weight(DType::kE4M3, kMx32, 300, 300, DType::kE8M0)}) {
    for (const IndexRange cut :
         {IndexRange{1, 2}, {33, 290}, {100, 140}, {127, 129}, {192, 300}, {64, 192}}) {
      expect_part(slice(whole, Split::kColumn, cut), whole, cut, {0, 300});
      expect_part(slice(whole, Split::kRow, cut), whole, {0, 300}, cut);
    }
  }
}

TEST(Shard, RefinesNoMoreThanTheCutNeeds) {
  const Fp8Weight whole = weight(DType::kE4M3, kBlock128, 768, 768);
  EXPECT_EQ(slice(whole, Split::kColumn, {128, 700}).scheme.weight.group, kBlock128);
  EXPECT_EQ(slice(whole, Split::kColumn, {192, 768}).scheme.weight.group, (Group{64, 128}));
  EXPECT_EQ(slice(whole, Split::kRow, {192, 768}).scheme.weight.group, (Group{128, 64}));
  EXPECT_EQ(slice(whole, Split::kRow, {130, 250}).scheme.weight.group, kBlock128);  // inside of one
}

TEST(ShardRange, IsBalancedWholeAndCutAtLargePowersOfTwo) {
  for (const int64_t extent : {7, 8, 100, 768, 1000, 4096, 5120, 14336, 18432, 28672, 53248, 128256}) {
    for (const int size : {1, 2, 3, 4, 5, 7}) {
      int64_t begin = 0;
      for (int rank = 0; rank < size; ++rank) {
        const IndexRange own = shard_range(extent, rank, size);
        EXPECT_EQ(own.begin, begin);
        EXPECT_LT(own.begin, own.end);
        const double even = static_cast<double>(extent) / size;
        EXPECT_LE(static_cast<double>(own.end - own.begin), std::max(std::ceil(even), 1.05 * even));
        begin = own.end;
      }
      EXPECT_EQ(begin, extent);
    }
  }
  EXPECT_EQ(shard_range(28672, 1, 8).begin, 3584);
  EXPECT_EQ(shard_range(768, 1, 4).begin, 192);
  EXPECT_EQ(shard_range(14336, 1, 3).begin % 128, 0);
}

TEST(ShardHeads, KvHeadsAreReplicatedWhereTheyAreFewerThanRanks) {
  for (const auto& [heads, kv_heads] : {std::pair{4, 2}, {8, 8}, {8, 1}, {14, 2}, {64, 8}, {6, 3}}) {
    for (int size = 1; size <= heads; ++size) {
      int64_t next = 0;
      for (int rank = 0; rank < size; ++rank) {
        const auto [q, kv] = shard_heads(heads, kv_heads, rank, size);
        EXPECT_EQ(q.begin, next);
        EXPECT_LT(q.begin, q.end);
        next = q.end;
        // Each q head finds its kv head by its own number alone.
        const int64_t group = (q.end - q.begin) / (kv.end - kv.begin);
        EXPECT_EQ(group * (kv.end - kv.begin), q.end - q.begin);
        for (int64_t h = q.begin; h < q.end; ++h)
          EXPECT_EQ(kv.begin + (h - q.begin) / group, h / (heads / kv_heads));
      }
      EXPECT_EQ(next, heads);
    }
  }
}

TEST(ShardMerged, SplitsEachPartWithItsOwnScales) {
  const Fp8Weight gate_up = weight(DType::kE4M3, kBlock128, 192 + 128, 200);
  for (int rank = 0; rank < 3; ++rank) {
    const Fp8Weight own = shard_merged(gate_up, std::vector<int64_t>{192, 128}, rank, 3);
    const IndexRange gate = shard_range(192, rank, 3), up = shard_range(128, rank, 3);
    check_weight(own);
    const HostTensor got = dequantize(own, 0, own.n());
    int64_t row = 0;
    for (const IndexRange part : {gate, IndexRange{192 + up.begin, 192 + up.end}}) {
      const HostTensor want = dequantize(gate_up, part.begin, part.end);
      ASSERT_EQ(std::memcmp(got.as<float>() + row * 200, want.data(), want.size_bytes()), 0);
      row += part.end - part.begin;
    }
    EXPECT_EQ(row, own.n());
  }
}

TEST(ShardQkv, HasTheHeadsOfTheRank) {
  const Fp8Weight qkv = weight(DType::kE4M3, kMx32, (4 + 2 + 2) * 24, 64, DType::kE8M0);
  const Fp8Weight own = shard_qkv(qkv, 4, 2, 24, 2, 4);  // q head 2 with kv head 1
  const int64_t first[] = {2 * 24, (4 + 1) * 24, (4 + 2 + 1) * 24};
  ASSERT_EQ(own.n(), 3 * 24);
  for (int64_t part = 0; part < 3; ++part) {
    const HostTensor got = dequantize(own, part * 24, part * 24 + 24);
    const HostTensor want = dequantize(qkv, first[part], first[part] + 24);
    EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size_bytes()), 0) << part;
  }
}

// The pages of other ranks may not even be read here: touching one ends the test.
class ForeignPages : public testing::Test {
 protected:
  static constexpr int64_t kRows = 16;
  const int64_t page_ = ::sysconf(_SC_PAGESIZE);
  const int64_t k_ = 4 * page_;

  // e4m3 zeroes [kRows, four pages], per row, of which `readable` of (row, page of the row) may be read.
  Fp8Weight guarded(const std::function<bool(int64_t row, int64_t page)>& readable) {
    const auto bytes = static_cast<size_t>(kRows * k_);
    void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int64_t i = 0; i < kRows * 4; ++i) {
      if (!readable(i / 4, i % 4))
        ::mprotect(static_cast<char*>(memory) + i * page_, static_cast<size_t>(page_), PROT_NONE);
    }
    const std::shared_ptr<const void> owner(memory, [bytes](void* p) { ::munmap(p, bytes); });
    Fp8Weight w;
    w.scheme.weight.group = kPerRow;
    w.data = HostTensor::borrow(DType::kE4M3, {kRows, k_}, memory, owner);
    w.scale = test::filled(DType::kF32, {kRows, 1}, 1);
    return w;
  }
};

TEST_F(ForeignPages, AreNotReadByAColumnSplit) {
  const Fp8Weight whole = guarded([](int64_t row, int64_t) { return row >= 4 && row < 8; });
  const Fp8Weight own = shard(whole, Split::kColumn, 1, 4);
  EXPECT_EQ(own.data.data(), whole.data.data() + 4 * k_) << "the codes stay where they are";
  check_weight(own);
}

TEST_F(ForeignPages, AreNotReadByARowSplit) {
  check_weight(shard(guarded([](int64_t, int64_t page) { return page == 2; }), Split::kRow, 2, 4));
}

TEST(ShardRefuses, InWords) {
  const Fp8Weight whole = weight(DType::kE4M3, kPerRow, 3, 8);
  const auto text = [](const auto& action) -> std::string {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(text([&] { shard(whole, Split::kColumn, 0, 4); }),
            "3 elements cannot be split over 4 ranks; use at most 3");
  EXPECT_EQ(text([&] { shard_heads(4, 2, 0, 5); }),
            "attention with 4 heads cannot be split over 5 ranks; use at most 4");
  EXPECT_EQ(text([&] { shard(whole, Split::kRow, 2, 2); }),
            "rank 2 of 2 was asked for; ranks are 0 to size - 1");
  EXPECT_NE(text([&] {
              slice(whole, Split::kRow, {4, 9});
            }).find("inputs [4, 9) asked for"),
            std::string::npos);
  EXPECT_NE(text([&] {
              shard_merged(whole, std::vector<int64_t>{2, 2}, 0, 2);
            }).find("do not add up"),
            std::string::npos);
  EXPECT_NE(text([&] { shard_qkv(whole, 2, 2, 1, 0, 2); }).find("do not add up"), std::string::npos);
}

}  // namespace
}  // namespace anyfp8
