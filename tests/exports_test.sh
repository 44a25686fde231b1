#!/usr/bin/env bash
# The shared library exports the C and the C++ API and nothing else, under a versioned soname.
# Usage: exports_test.sh LIBRARY SONAME C_API_HEADER
set -euo pipefail
library=$1 soname=$2 header=$3

exported=$(nm -D --defined-only -C "$library" | cut -d' ' -f3-)
foreign=$(grep -vE '^(anyfp8_[a-z0-9_]+$|anyfp8::|(typeinfo|typeinfo name|vtable) for anyfp8::)' <<<"$exported" || true)
if [[ -n $foreign ]]; then
  printf 'exported, but no part of the API:\n%s\n' "$foreign" >&2
  exit 1
fi

# Every function of the header is there.
for name in $(sed -nE 's/^ANYFP8_API .*\b(anyfp8_[a-z0-9_]+)\(.*/\1/p' "$header"); do
  grep -qx "$name" <<<"$exported" || { echo "$name is declared in the header and not exported" >&2; exit 1; }
done

readelf -d "$library" | grep -q "SONAME.*\[$soname\]" || { echo "the soname is not $soname" >&2; exit 1; }
