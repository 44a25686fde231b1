#pragma once

// Symbols of the C and C++ API; everything else in the shared library is hidden.
#define ANYFP8_API __attribute__((visibility("default")))
