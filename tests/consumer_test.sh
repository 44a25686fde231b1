#!/usr/bin/env bash
# Installs BUILD into a temporary prefix and uses it from there as others would: find_package and C++,
# pkg-config and C, the program. Usage: consumer_test.sh BUILD CXX SANITIZERS
set -euo pipefail
build=$1 cxx=$2 sanitize=${3:+-fsanitize=$3}
here=$(dirname "$(readlink -f "$0")")/consumer
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

cmake --install "$build" --prefix "$temp/before" >/dev/null
mv "$temp/before" "$temp/prefix"  # an installation can be moved
prefix=$temp/prefix

if grep -rnE '#include *[<"](fmt|nlohmann|CLI|omp)' "$prefix/include"; then
  echo "the installed headers above need another library" >&2
  exit 1
fi

echo "find_package, C++"
cmake -S "$here" -B "$temp/build" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_CXX_COMPILER="$cxx" \
  -DCMAKE_CXX_FLAGS="-Wall -Wextra -Wpedantic -Werror $sanitize" >/dev/null
cmake --build "$temp/build"
"$temp/build/consumer"

echo "pkg-config, C11"
libdir=$(dirname "$(find "$prefix" -name libanyfp8.so)")
export PKG_CONFIG_PATH=$libdir/pkgconfig LD_LIBRARY_PATH=$libdir
flags=$(pkg-config --cflags --libs anyfp8)
# shellcheck disable=SC2086
"$cxx" -x c -std=c11 -Wall -Wextra -Wpedantic -Werror $sanitize "$here/consumer.c" -x none $flags -o "$temp/consumer_c"
"$temp/consumer_c"

echo "the program"
[[ ! -x $prefix/bin/anyfp8 ]] || "$prefix/bin/anyfp8" --version

echo "another minor version is refused"
if cmake -S "$here" -B "$temp/other" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_CXX_COMPILER="$cxx" \
  -DWANTED_VERSION=0.2 >/dev/null 2>&1; then
  echo "find_package(anyfp8 0.2) took another version" >&2
  exit 1
fi
