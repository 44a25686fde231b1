/* The C ABI from outside the tree, as strict C11: a weight over this program's memory, applied. */
#include <anyfp8/c_api.h>
#include <stdio.h>

#define CHECK(call)                                            \
  do {                                                         \
    if ((call) != ANYFP8_OK) {                                 \
      fprintf(stderr, "%s: %s\n", #call, anyfp8_last_error()); \
      return 1;                                                \
    }                                                          \
  } while (0)

int main(void) {
  /* [n = 2, k = 4] in e4m3: 0x38 is 1, 0x40 is 2, 0xB8 is -1; one scale per row. */
  static const unsigned char data[8] = {0x38, 0x38, 0x38, 0x38, 0x40, 0xB8, 0x40, 0xB8};
  static const float scale[2] = {0.5f, 3.0f};
  const float x[4] = {1, 2, 3, 4};
  float y[2] = {0, 0};

  anyfp8_layer layer = {0};
  layer.struct_size = sizeof layer;
  layer.n = 2;
  layer.k = 4;
  layer.weight_dtype = ANYFP8_E4M3;
  layer.group_rows = 1;
  anyfp8_linear_options options = {0};
  options.struct_size = sizeof options;
  options.in_dtype = options.out_dtype = ANYFP8_F32;

  anyfp8_device* cpu;
  anyfp8_weight* weight;
  anyfp8_linear* linear;
  anyfp8_workspace* workspace;
  size_t bytes;
  if (anyfp8_abi_version() != ANYFP8_ABI_VERSION) return 1;
  CHECK(anyfp8_device_open("cpu", &cpu));
  CHECK(anyfp8_weight_borrow(&layer, data, scale, NULL, NULL, &weight));
  CHECK(anyfp8_linear_create(cpu, weight, &options, NULL, &linear));
  CHECK(anyfp8_workspace_create(cpu, &workspace));
  CHECK(anyfp8_linear_workspace_bytes(linear, 1, &bytes));
  CHECK(anyfp8_workspace_reserve(workspace, bytes));
  CHECK(anyfp8_linear_apply(linear, x, 4, y, 2, 1, workspace, NULL));
  printf("anyfp8 %s: y = %g %g\n", anyfp8_version(), y[0], y[1]);

  anyfp8_workspace_free(workspace);
  anyfp8_linear_free(linear);
  anyfp8_weight_free(weight);
  anyfp8_device_free(cpu);
  return y[0] == 5.0f && y[1] == 6.0f ? 0 : 1; /* 10 * 0.5 and (2 - 2 + 6 - 4) * 3, exact in fp32 */
}
