/* One layer of a checkpoint through the C ABI:
 *   apply_linear models/kjv-qwen3-fp8 model.layers.0.mlp.up_proj */
#include <anyfp8/c_api.h>
#include <stdio.h>
#include <stdlib.h>

/* Ends the program with the library's sentence when a call fails. */
static void must(int code) {
  if (code == ANYFP8_OK) return;
  fprintf(stderr, "apply_linear: %s\n", anyfp8_last_error());
  exit(1);
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: apply_linear MODEL MODULE\n");
    return 2;
  }
  anyfp8_checkpoint* checkpoint;
  anyfp8_weight* weight;
  anyfp8_device* device;
  anyfp8_linear* linear;
  anyfp8_workspace* workspace;
  char* text;
  size_t bytes;

  must(anyfp8_checkpoint_open(argv[1], &checkpoint));
  must(anyfp8_weight_load(checkpoint, argv[2], &weight));
  must(anyfp8_weight_json(weight, &text)); /* n and k are in here too */
  puts(text);
  anyfp8_string_free(text);

  must(anyfp8_device_open("cpu", &device));
  anyfp8_linear_options options = {0};
  options.struct_size = sizeof options;
  options.in_dtype = options.out_dtype = ANYFP8_F32;
  must(anyfp8_linear_create(device, weight, &options, NULL, &linear));
  must(anyfp8_linear_explain(linear, &text));
  puts(text);
  anyfp8_string_free(text);

  int64_t n, k;
  must(anyfp8_weight_shape(weight, &n, &k));
  float* x = malloc((size_t)k * sizeof *x); /* [1, k] */
  float* y = malloc((size_t)n * sizeof *y); /* [1, n] */
  if (x == NULL || y == NULL) return 1;
  for (int64_t i = 0; i < k; ++i) x[i] = 1.0f;
  must(anyfp8_workspace_create(device, &workspace));
  must(anyfp8_linear_workspace_bytes(linear, 1, &bytes));
  must(anyfp8_workspace_reserve(workspace, bytes));
  must(anyfp8_linear_apply(linear, x, k, y, n, 1, workspace, NULL));
  printf("y[0, 0] = %g, the sum of row 0 of the weight\n", y[0]);

  free(x);
  free(y);
  anyfp8_workspace_free(workspace);
  anyfp8_linear_free(linear);
  anyfp8_device_free(device);
  anyfp8_weight_free(weight);
  anyfp8_checkpoint_free(checkpoint);
  return 0;
}
