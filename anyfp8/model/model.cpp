#include "anyfp8/model/model.h"

#include <algorithm>
#include <utility>

#include "anyfp8/base/float8.h"
#include "anyfp8/base/text.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/checkpoint/fingerprint.h"
#include "anyfp8/kernels/common/vector_ops.h"
#include "anyfp8/model/attention.h"
#include "anyfp8/model/model_weights.h"
#include "anyfp8/model/rope.h"

namespace anyfp8 {
namespace {

// A prompt goes through the layers this many tokens at a time: matrix products no longer gain from more rows.
// Fewer where the buffers would be larger than this (a 70B model's are 250 MB at 512 tokens).
constexpr int64_t kPassTokens = 512, kPassBytes = 256 << 20;

// Below this many elements a parallel region costs more than the element-wise work.
constexpr int64_t kParallelElements = 1 << 15;

void for_each_token(int64_t tokens, int64_t elements_each, const auto& row) {
#pragma omp parallel for num_threads(num_threads()) if (tokens > 1 && \
                                                        tokens * elements_each >= kParallelElements)
  for (int64_t t = 0; t < tokens; ++t) row(t);
}

}  // namespace

struct Model::State {
  std::unique_ptr<Comm> alone;  // of a process that has the model for itself
  Comm& comm;
  ModelConfig config;  // of this rank
  DType activations;
  ModelWeights weights;
  std::vector<float> frequencies;  // rope
  Workspace workspace;

  const VectorOps& ops;

  // One pass's activations, f32, row-major [tokens, ...].
  int64_t buffer_tokens = 0;
  std::vector<float> hidden;  // the residual stream
  std::vector<float>
      normed;  // [hidden]: input of q/k/v and gate/up; output of o and down, to be added to hidden
  std::vector<float> q, k, v, attended, gate, up;
  std::vector<uint16_t> narrowed;  // input of the linear layers in 16 bits, where those were asked for
  std::vector<float> rounded;      // and as W8A8 sees it, where that is emulated
  RopeTable rope;

  int64_t pass_tokens() const;
  void reserve(int64_t tokens);
  void linear(const ModelLinear& model_linear, const std::vector<float>& x, int64_t first, int64_t tokens,
              float* y);
  void narrow(const std::vector<float>& x, int64_t size, int64_t row);
  void add_and_norm(int64_t first, int64_t tokens, const std::vector<float>& weight, bool add);
  void attention_block(size_t layer, int64_t tokens, KvCache& cache);
  void ffn_block(size_t layer, int64_t tokens);
  void pass(std::span<const int> ids, KvCache& cache, std::span<float> logits);
};

int64_t Model::State::pass_tokens() const {
  const int64_t widest = std::max({config.hidden, config.q_size(), config.ffn});  // a kernel may copy x
  const int64_t floats = widest + 2 * (config.hidden + config.q_size() + config.kv_size() + config.ffn);
  return std::clamp<int64_t>(kPassBytes / (4 * floats), 1, kPassTokens);
}

void Model::State::reserve(int64_t tokens) {
  if (tokens <= buffer_tokens) return;
  const auto grow = [tokens](auto& buffer, int64_t each) {
    buffer.resize(static_cast<size_t>(tokens * each));
  };
  grow(hidden, config.hidden);
  grow(normed, config.hidden);
  grow(q, config.q_size());
  grow(k, config.kv_size());
  grow(v, config.kv_size());
  grow(attended, config.q_size());
  grow(gate, config.ffn);
  grow(up, config.ffn);
  if (activations != DType::kF32) grow(narrowed, std::max({config.hidden, config.q_size(), config.ffn}));
  size_t scratch = comm.scratch_bytes(tokens * config.hidden, DType::kF32, DType::kF32);
  for (const ModelLinear& linear : weights.linears)
    scratch = std::max(scratch, linear.layer->workspace_bytes(tokens));
  workspace.reserve(scratch);
  buffer_tokens = tokens;
}

// y = rows [first, first + tokens) of x · Wᵀ + bias. Where activations have 16 bits, narrow() has made them
// from x. They are read only; TensorView has no const form.
void Model::State::linear(const ModelLinear& model_linear, const std::vector<float>& x, int64_t first,
                          int64_t tokens, float* y) {
  const int64_t in_size = model_linear.layer->linear().config().k;
  const bool head = &model_linear == &weights.lm_head();
  const int64_t out_size = head ? config.vocab : model_linear.layer->linear().config().n;
  const bool wide = activations == DType::kF32;
  void* in = wide ? static_cast<void*>(const_cast<float*>(&x[first * in_size])) : &narrowed[first * in_size];
  TensorView x_view{in, activations, tokens, in_size, in_size};
  if (const std::optional<ActivationQuant>& quant = model_linear.emulated) {
    rounded.resize(static_cast<size_t>(tokens * in_size));
    round_activations(x_view, *quant, rounded.data());
    x_view = {rounded.data(), DType::kF32, tokens, in_size, in_size};
  }
  model_linear.layer->apply(x_view, {y, DType::kF32, tokens, out_size, out_size}, workspace);
}

// Row `row` of x, [size], becomes that of `narrowed`, if activations have 16 bits.
void Model::State::narrow(const std::vector<float>& x, int64_t size, int64_t row) {
  const float* from = &x[row * size];
  if (activations == DType::kBF16) ops.to_bf16(from, size, &narrowed[row * size]);
  if (activations == DType::kF16) std::transform(from, from + size, &narrowed[row * size], f32_to_f16);
}

// Rows [first, first + tokens): hidden += normed, if `add`; then normed = RMSNorm of hidden.
void Model::State::add_and_norm(int64_t first, int64_t tokens, const std::vector<float>& weight, bool add) {
  const int64_t size = config.hidden;
  for_each_token(tokens, size, [&](int64_t t) {
    float* stream = &hidden[(first + t) * size];
    float* row = &normed[(first + t) * size];
    if (add) ops.add_to(stream, row, size);
    ops.rms_norm(stream, weight.data(), config.norm_eps, size, row);
    narrow(normed, size, first + t);
  });
}

void Model::State::attention_block(size_t layer, int64_t tokens, KvCache& cache) {
  const LayerNorms& norms = weights.norms[layer];
  const int64_t dim = config.head_dim, plane = static_cast<int64_t>(layer);
  add_and_norm(0, tokens, norms.attention, layer > 0);
  linear(weights.linear(layer, kQ), normed, 0, tokens, q.data());
  linear(weights.linear(layer, kK), normed, 0, tokens, k.data());
  linear(weights.linear(layer, kV), normed, 0, tokens, v.data());
  for_each_token(tokens, config.q_size() + 2 * config.kv_size(), [&](int64_t t) {
    const auto norm_and_rotate = [&](float* x, int64_t heads, const std::vector<float>& weight) {
      ops.norm_and_rotate(x, heads, dim / 2, config.qk_norm ? weight.data() : nullptr, config.norm_eps,
                          &rope.cos[t * dim / 2], &rope.sin[t * dim / 2]);
    };
    const float* v_row = &v[t * config.kv_size()];
    float* k_row = &k[t * config.kv_size()];
    norm_and_rotate(&q[t * config.q_size()], config.heads, norms.q);
    norm_and_rotate(k_row, config.kv_heads, norms.k);
    for (int64_t h = 0; h < config.kv_heads; ++h) {
      cache.write(plane, h, cache.length() + t, k_row + h * dim, v_row + h * dim);
    }
  });
  attend(ops, q.data(), tokens, config.heads, cache, plane, attended.data());
  for_each_token(tokens, config.q_size(), [&](int64_t t) { narrow(attended, config.q_size(), t); });
  linear(weights.linear(layer, kO), attended, 0, tokens, normed.data());
}

void Model::State::ffn_block(size_t layer, int64_t tokens) {
  const int64_t ffn = config.ffn;
  add_and_norm(0, tokens, weights.norms[layer].ffn, true);
  linear(weights.linear(layer, kGate), normed, 0, tokens, gate.data());
  linear(weights.linear(layer, kUp), normed, 0, tokens, up.data());
  for_each_token(tokens, ffn, [&](int64_t t) {
    ops.silu_times(&gate[t * ffn], &up[t * ffn], ffn);
    narrow(gate, ffn, t);
  });
  linear(weights.linear(layer, kDown), gate, 0, tokens, normed.data());
}

// All layers. logits: of every token, of the last one, or empty for none.
void Model::State::pass(std::span<const int> ids, KvCache& cache, std::span<float> logits) {
  const auto tokens = static_cast<int64_t>(ids.size());
  for_each_token(tokens, config.hidden, [&](int64_t t) {
    const auto size = static_cast<size_t>(config.hidden), row = static_cast<size_t>(t);
    const std::span<float> out = std::span(hidden).subspan(row * size, size);
    const int64_t id = ids[row];
    std::fill(out.begin(), out.end(), 0.0f);
    if (id >= weights.ids.begin && id < weights.ids.end)
      widen(weights.embedding, (id - weights.ids.begin) * config.hidden, out);
  });
  // One rank has each token's row, the others zeroes.
  comm.all_reduce(hidden.data(), DType::kF32, hidden.data(), DType::kF32, tokens * config.hidden,
                  workspace.scratch());
  fill_rope_table(config.rope, frequencies, cache.length(), tokens, rope);
  for (size_t layer = 0; layer < weights.norms.size(); ++layer) {
    attention_block(layer, tokens, cache);
    ffn_block(layer, tokens);
  }
  cache.advance(tokens);
  const int64_t wanted = static_cast<int64_t>(logits.size()) / config.vocab;
  if (wanted == 0) return;
  add_and_norm(tokens - wanted, wanted, weights.final_norm, true);
  linear(weights.lm_head(), normed, tokens - wanted, wanted, logits.data());
}

Model::Model(std::unique_ptr<State> state) : state_(std::move(state)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Model Model::load(const Checkpoint& checkpoint, const ModelOptions& options, const Progress& progress) {
  ModelConfig config = read_model_config(checkpoint);
  std::unique_ptr<Comm> alone = options.comm == nullptr ? self_comm(options.device) : nullptr;
  Comm& comm = alone == nullptr ? *options.comm : *alone;
  const HeadShard heads = shard_heads(config.heads, config.kv_heads, comm.rank(), comm.size());
  if (comm.size() > 1) comm.agree("model", fingerprint(checkpoint));
  ModelWeights weights = load_model_weights(checkpoint, config, options, comm, progress);
  // Reading a page of a file maps its neighbours, which are other ranks'.
  for (const TensorInfo& tensor : comm.size() > 1 ? checkpoint.tensors() : std::vector<TensorInfo>{})
    if (tensor.dtype) checkpoint.tensor(tensor.name).release(0, tensor.bytes);
  config.heads = heads.q.end - heads.q.begin;
  config.kv_heads = heads.kv.end - heads.kv.begin;
  config.ffn = weights.linear(0, kUp).layer->linear().config().n;
  std::vector<float> frequencies = rope_frequencies(config.rope, config.head_dim);
  return Model(std::unique_ptr<State>(
      new State{std::move(alone), comm, std::move(config), options.activations, std::move(weights),
                std::move(frequencies), Workspace(options.device), vector_ops(options.device.isa)}));
}

const ModelConfig& Model::config() const noexcept { return state_->config; }

void Model::forward(std::span<const int> tokens, KvCache& cache, std::span<float> logits, bool all_logits) {
  const ModelConfig& c = state_->config;
  const auto vocab = static_cast<size_t>(c.vocab);
  if (tokens.empty())
    throw fail(ErrorCode::kInvalidArgument, "forward() was given no tokens; it needs at least one");
  for (const int id : tokens) {
    if (id >= 0 && id < c.vocab) continue;
    throw fail(ErrorCode::kInvalidArgument, "token id {} is outside the vocabulary of {}", id, c.vocab);
  }
  if (const size_t rows = all_logits ? tokens.size() : 1; logits.size() != rows * vocab) {
    throw fail(ErrorCode::kInvalidArgument, "room for {} logits was given; {} x {} are needed", logits.size(),
               rows, vocab);
  }
  if (cache.layers() != c.layers || cache.kv_heads() != c.kv_heads || cache.head_dim() != c.head_dim) {
    throw fail(ErrorCode::kInvalidArgument,
               "the cache was made for another model ({} layers, {} heads of {})", cache.layers(),
               cache.kv_heads(), cache.head_dim());
  }
  if (static_cast<int64_t>(tokens.size()) > cache.capacity() - cache.length()) {
    throw fail(ErrorCode::kInvalidArgument, "{} tokens do not fit a cache of {} positions, {} of them used",
               tokens.size(), cache.capacity(), cache.length());
  }
  const size_t pass_tokens = std::min(tokens.size(), static_cast<size_t>(state_->pass_tokens()));
  state_->reserve(static_cast<int64_t>(pass_tokens));
  for (size_t begin = 0; begin < tokens.size(); begin += pass_tokens) {
    const size_t count = std::min(pass_tokens, tokens.size() - begin);
    const bool last = begin + count == tokens.size();
    const std::span<float> wanted = all_logits ? logits.subspan(begin * vocab, count * vocab)
                                    : last     ? logits
                                               : std::span<float>();
    state_->pass(tokens.subspan(begin, count), cache, wanted);
  }
}

std::vector<Model::LayerInfo> Model::linears() const {
  std::vector<LayerInfo> list;
  for (const ModelLinear& linear : state_->weights.linears) {
    list.push_back({linear.stored_as, linear.stored_as, &linear.layer->linear()});
  }
  list.back().module = "lm_head";
  return list;
}

int64_t Model::linear_parameters() const noexcept {
  int64_t count = 0;
  for (const ModelLinear& linear : state_->weights.linears) {
    count += linear.layer->linear().config().n * linear.layer->linear().config().k;
  }
  return count;
}

size_t Model::linear_bytes() const noexcept {
  size_t bytes = 0;
  for (const ModelLinear& linear : state_->weights.linears) bytes += linear.layer->linear().resident_bytes();
  return bytes;
}

size_t Model::other_bytes() const noexcept {
  const ModelWeights& weights = state_->weights;
  size_t floats = weights.final_norm.size();
  for (const LayerNorms& n : weights.norms)
    floats += n.attention.size() + n.ffn.size() + n.q.size() + n.k.size();
  return floats * sizeof(float) + (state_->config.tied ? 0 : weights.embedding.size_bytes());
}

}  // namespace anyfp8
