#!/usr/bin/env bash
# CONTRIBUTING.md's two walk-throughs, done to the letter on a copy of the tree: each file is cut from the
# document, each list gets its one line, and the program that comes out knows the kernel and the dialect.
# Usage: walkthrough_test.sh SOURCE_DIR CXX sanitize=[NAMES] OBJECT...
set -euo pipefail
source=$1 cxx=$2 sanitize=${3#sanitize=}
sanitize=${sanitize:+-fsanitize=$sanitize}
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$source"/{anyfp8,cli,cmake,CMakeLists.txt} "$work"
cd "$work"

# cut_block PATH: the code block of the document that follows the mention of PATH.
cut_block() {
  awk -v path="\`$1\`" 'index($0, path) { found = 1 } found && /^ *```cpp/ { on = 1; next }
    on && /^ *```/ { exit } on { sub(/^   /, ""); print }' "$source/CONTRIBUTING.md"
}
for file in anyfp8/kernels/cpu_scalar_w8a16/cpu_scalar_w8a16.cpp anyfp8/scheme/acme/acme.cpp; do
  mkdir -p "$(dirname "$file")"
  cut_block "$file" >"$file"
  [[ -s $file ]] || { echo "no code block for $file in CONTRIBUTING.md"; exit 1; }
done
# The added lines of the two diffs, each before the line that follows it there.
sed -i '/^ANYFP8_KERNEL(cpu_reference)/i ANYFP8_KERNEL(cpu_scalar_w8a16)' anyfp8/kernels/kernel_list.inc
sed -i '/^ANYFP8_FORMAT(comfyui)/i ANYFP8_FORMAT(acme)' anyfp8/scheme/format_list.inc
grep -q '^ *+ANYFP8_KERNEL(cpu_scalar_w8a16)' "$source/CONTRIBUTING.md"
grep -q '^ *+ANYFP8_FORMAT(acme)' "$source/CONTRIBUTING.md"

cat >walk.cpp <<'END'
#include <cstdio>
#include <cstring>
#include "anyfp8/checkpoint/writer.h"
#include "anyfp8/linear/linear.h"
#include "anyfp8/scheme/format.h"
using namespace anyfp8;
int main() {
  HostTensor weight = HostTensor::allocate(DType::kE4M3, {2, 3}), scale = HostTensor::allocate(DType::kF32, {2, 1});
  std::memset(weight.mutable_data(), 0x38, 6);  // 1.0
  const float scales[] = {2, 3}, x[] = {1, 10, 100};
  std::memcpy(scale.mutable_data(), scales, sizeof(scales));
  const NamedTensor tensors[] = {{"a.weight", weight}, {"a.acme_scale", scale}};
  write_safetensors("model.safetensors", tensors);
  write_text_file("config.json", R"({"quantization_config": {"quant_method": "acme"}})");
  const Checkpoint checkpoint = Checkpoint::open(".");
  const Format* format = find_format(checkpoint);
  const Linear linear = Linear::create(cpu_device(), load_weight(checkpoint, format, "a"),
                                       {DType::kF32, DType::kF32}, {.force = "cpu_scalar_w8a16"});
  float y[2];
  Workspace workspace(linear.device());
  linear.apply({const_cast<float*>(x), DType::kF32, 1, 3, 3}, {y, DType::kF32, 1, 2, 2}, workspace);
  std::printf("%s %g %g\n", format->name.data(), y[0], y[1]);
}
END
# Only the files that read a list are compiled anew; the rest is the build's.
objects=()
for object in "$@"; do
  [[ $object == */kernels/plugin.cpp.o || $object == */scheme/format.cpp.o ]] || objects+=("$object")
done
"$cxx" -std=c++20 -O1 -fopenmp $sanitize -I. -w walk.cpp anyfp8/kernels/cpu_scalar_w8a16/cpu_scalar_w8a16.cpp \
  anyfp8/scheme/acme/acme.cpp anyfp8/kernels/plugin.cpp anyfp8/scheme/format.cpp "${objects[@]}" -lfmt -ldl -o walk
result=$(ANYFP8_THREADS=1 ./walk)
echo "$result"
[[ $result == "acme 222 333" ]]
