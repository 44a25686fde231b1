#pragma once

// The whole public C++ API of anyfp8. The order is the order of use:
//   Checkpoint::open, load_weight (or quantize), merge, select_kernel, Linear::create, Linear::apply.
// Layers on several ranks: open_comm, shard, ColumnParallelLinear, RowParallelLinear.
// C, and everything that needs a stable ABI: anyfp8/c_api.h.
#include "anyfp8/base/dtype.h"
#include "anyfp8/base/error.h"
#include "anyfp8/base/float8.h"
#include "anyfp8/base/log.h"
#include "anyfp8/base/tensor.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/base/verdict.h"
#include "anyfp8/checkpoint/checkpoint.h"
#include "anyfp8/checkpoint/writer.h"
#include "anyfp8/device/device.h"
#include "anyfp8/kernels/kernel.h"
#include "anyfp8/kernels/plugin.h"
#include "anyfp8/kernels/select.h"
#include "anyfp8/kernels/tune_table.h"
#include "anyfp8/linear/linear.h"
#include "anyfp8/linear/workspace.h"
#include "anyfp8/parallel/comm.h"
#include "anyfp8/parallel/parallel_linear.h"
#include "anyfp8/scheme/format.h"
#include "anyfp8/scheme/fp8_weight.h"
#include "anyfp8/scheme/merge.h"
#include "anyfp8/scheme/quant_scheme.h"
#include "anyfp8/scheme/quantize.h"
#include "anyfp8/scheme/shard.h"
