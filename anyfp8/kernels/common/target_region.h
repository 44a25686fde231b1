#pragma once

// Vector code for a newer CPU, in a file that is compiled for the oldest one:
//
//   ANYFP8_TARGET_BEGIN("avx2,fma,f16c")
//   namespace anyfp8 { namespace { ... } }
//   ANYFP8_TARGET_END
//
// Flags for a whole file (-mavx2) would also compile the inline functions of headers for the newer CPU, and
// the linker may keep that copy for the whole program. So: include every header before the region, define
// nothing in it outside an unnamed namespace, and call no inline function of a header in it (intrinsics and
// compiler builtins aside).
#define ANYFP8_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define ANYFP8_TARGET_BEGIN(isa) \
  ANYFP8_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define ANYFP8_TARGET_END ANYFP8_PRAGMA(clang attribute pop)
#define ANYFP8_UNROLL ANYFP8_PRAGMA(unroll)
#else
#define ANYFP8_TARGET_BEGIN(isa) ANYFP8_PRAGMA(GCC push_options) ANYFP8_PRAGMA(GCC target(isa))
#define ANYFP8_TARGET_END ANYFP8_PRAGMA(GCC pop_options)
// GCC 12 keeps an array of accumulators in memory, and stores it in every step, unless each loop over it is
// unrolled completely. No such loop has more than 16.
#define ANYFP8_UNROLL ANYFP8_PRAGMA(GCC unroll 16)
#endif
