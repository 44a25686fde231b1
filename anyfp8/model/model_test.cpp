#include "anyfp8/model/model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "anyfp8/base/log.h"
#include "anyfp8/model/perplexity.h"
#include "anyfp8/scheme/test_checkpoint.h"

namespace anyfp8 {
namespace {

using nlohmann::json;
using Row = std::vector<double>;

// A tiny model of random f32 weights on disk, and the same weights for the plain code below.
struct TinyModel {
  std::map<std::string, std::vector<float>> weights;
  std::vector<NamedTensor> tensors;
  json config;
  int64_t hidden, ffn, heads = 4, kv_heads = 2, head_dim = 8, vocab, layers = 2;
  bool qkv_bias = false, o_bias = false, mlp_bias = false, qk_norm = false, tied = false;
  unsigned seed = 11;

  explicit TinyModel(const std::string& architecture, int64_t hidden_size = 24, int64_t ffn_size = 40,
                     int64_t vocab_size = 31)
      : hidden(hidden_size), ffn(ffn_size), vocab(vocab_size) {
    qkv_bias = architecture != "Qwen3ForCausalLM";
    o_bias = mlp_bias = architecture == "LlamaForCausalLM";
    qk_norm = tied = architecture == "Qwen3ForCausalLM";
    config = {{"architectures", {architecture}},
              {"hidden_size", hidden},
              {"intermediate_size", ffn},
              {"num_hidden_layers", layers},
              {"num_attention_heads", heads},
              {"num_key_value_heads", kv_heads},
              {"head_dim", head_dim},
              {"vocab_size", vocab},
              {"max_position_embeddings", 600},
              {"rms_norm_eps", 1e-5},
              {"tie_word_embeddings", tied},
              {"attention_bias", o_bias},
              {"mlp_bias", mlp_bias},
              {"rope_theta", 100.0}};
    add("model.embed_tokens.weight", {vocab, hidden}, 1);
    if (!tied) add("lm_head.weight", {vocab, hidden}, 0.3f);
    add("model.norm.weight", {hidden}, 1);
    for (int64_t i = 0; i < layers; ++i) {
      const std::string path = "model.layers." + std::to_string(i) + ".";
      add_linear(path + "self_attn.q_proj", heads * head_dim, hidden, qkv_bias);
      add_linear(path + "self_attn.k_proj", kv_heads * head_dim, hidden, qkv_bias);
      add_linear(path + "self_attn.v_proj", kv_heads * head_dim, hidden, qkv_bias);
      add_linear(path + "self_attn.o_proj", hidden, heads * head_dim, o_bias);
      add_linear(path + "mlp.gate_proj", ffn, hidden, mlp_bias);
      add_linear(path + "mlp.up_proj", ffn, hidden, mlp_bias);
      add_linear(path + "mlp.down_proj", hidden, ffn, mlp_bias);
      add(path + "input_layernorm.weight", {hidden}, 1);
      add(path + "post_attention_layernorm.weight", {hidden}, 1);
      if (qk_norm) add(path + "self_attn.q_norm.weight", {head_dim}, 1);
      if (qk_norm) add(path + "self_attn.k_norm.weight", {head_dim}, 1);
    }
  }

  void add(const std::string& name, const Shape& shape, float scale) {
    std::mt19937 random(seed++);
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> values(static_cast<size_t>(num_elements(shape)));
    for (float& value : values) value = normal(random);
    tensors.push_back({name, test::values(DType::kF32, shape, values)});
    weights[name] = std::move(values);
  }
  void add_linear(const std::string& module, int64_t n, int64_t k, bool bias) {
    add(module + ".weight", {n, k}, 0.3f);
    if (bias) add(module + ".bias", {n}, 0.3f);
  }
  void remove(const std::string& name) {
    std::erase_if(tensors, [&](const NamedTensor& tensor) { return tensor.name == name; });
  }

  Model load(const ModelOptions& options = {}) const {
    const test::TempCheckpoint directory(config.dump(), tensors);
    return Model::load(directory.open(), options);
  }

  // The forward pass in double, as plainly as it can be written: logits of the last token.
  Row logits(const std::vector<int>& ids) const {
    std::vector<Row> x;
    const std::vector<float>& embedding = weights.at("model.embed_tokens.weight");
    for (const int id : ids)
      x.emplace_back(embedding.begin() + id * hidden, embedding.begin() + (id + 1) * hidden);
    for (int64_t i = 0; i < layers; ++i) {
      const std::string path = "model.layers." + std::to_string(i) + ".";
      std::vector<Row> q, k, v;
      for (size_t t = 0; t < x.size(); ++t) {
        const Row h = norm(x[t], path + "input_layernorm.weight");
        q.push_back(rotated(linear(h, path + "self_attn.q_proj"), path + "self_attn.q_norm.weight", t));
        k.push_back(rotated(linear(h, path + "self_attn.k_proj"), path + "self_attn.k_norm.weight", t));
        v.push_back(linear(h, path + "self_attn.v_proj"));
      }
      for (size_t t = 0; t < x.size(); ++t)
        add_row(x[t], linear(attended(q[t], k, v, t), path + "self_attn.o_proj"));
      for (Row& row : x) {
        const Row h = norm(row, path + "post_attention_layernorm.weight");
        Row gate = linear(h, path + "mlp.gate_proj");
        const Row up = linear(h, path + "mlp.up_proj");
        for (size_t j = 0; j < gate.size(); ++j) gate[j] = gate[j] / (1 + std::exp(-gate[j])) * up[j];
        add_row(row, linear(gate, path + "mlp.down_proj"));
      }
    }
    return linear(norm(x.back(), "model.norm.weight"), tied ? "model.embed_tokens" : "lm_head");
  }

  Row linear(const Row& x, const std::string& module) const {
    const std::vector<float>& w = weights.at(module + ".weight");
    const auto bias = weights.find(module + ".bias");
    Row y(w.size() / x.size());
    for (size_t n = 0; n < y.size(); ++n) {
      y[n] = bias == weights.end() ? 0 : bias->second[n];
      for (size_t k = 0; k < x.size(); ++k) y[n] += x[k] * w[n * x.size() + k];
    }
    return y;
  }
  Row norm(Row x, const std::string& name) const {
    double squares = 0;
    for (const double value : x) squares += value * value;
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = x[i] / std::sqrt(squares / static_cast<double>(x.size()) + 1e-5) * weights.at(name)[i];
    }
    return x;
  }
  Row rotated(const Row& x, const std::string& norm_name, size_t position) const {
    Row out;
    const auto half = static_cast<size_t>(head_dim / 2);
    for (size_t begin = 0; begin < x.size(); begin += 2 * half) {
      const auto first = x.begin() + static_cast<std::ptrdiff_t>(begin);
      Row head(first, first + head_dim);
      if (qk_norm) head = norm(head, norm_name);
      Row turned(head);
      for (size_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(position) *
                             std::pow(100.0, -static_cast<double>(i) / static_cast<double>(half));
        turned[i] = head[i] * std::cos(angle) - head[i + half] * std::sin(angle);
        turned[i + half] = head[i + half] * std::cos(angle) + head[i] * std::sin(angle);
      }
      out.insert(out.end(), turned.begin(), turned.end());
    }
    return out;
  }
  Row attended(const Row& q, const std::vector<Row>& k, const std::vector<Row>& v, size_t token) const {
    Row out(q.size());
    const auto dim = static_cast<size_t>(head_dim);
    for (size_t h = 0; h < static_cast<size_t>(heads); ++h) {
      const size_t kv = h / static_cast<size_t>(heads / kv_heads) * dim;
      Row weight;
      double total = 0;
      for (size_t j = 0; j <= token; ++j) {
        double score = 0;
        for (size_t d = 0; d < dim; ++d) score += q[h * dim + d] * k[j][kv + d];
        weight.push_back(std::exp(score / std::sqrt(static_cast<double>(dim))));
        total += weight.back();
      }
      for (size_t j = 0; j <= token; ++j) {
        for (size_t d = 0; d < dim; ++d) out[h * dim + d] += weight[j] / total * v[j][kv + d];
      }
    }
    return out;
  }
  static void add_row(Row& y, const Row& x) {
    for (size_t i = 0; i < y.size(); ++i) y[i] += x[i];
  }
};

std::vector<int> some_ids(size_t count, int64_t vocab) {
  std::vector<int> ids(count);
  for (size_t i = 0; i < count; ++i) ids[i] = static_cast<int>((i * i * 7 + i) % static_cast<size_t>(vocab));
  return ids;
}

std::vector<float> last_logits(Model& model, const std::vector<int>& ids) {
  KvCache cache(model.config(), static_cast<int64_t>(ids.size()));
  std::vector<float> logits(static_cast<size_t>(model.config().vocab));
  model.forward(ids, cache, logits);
  return logits;
}

void expect_load_error(const TinyModel& tiny, const std::vector<std::string>& parts,
                       const ModelOptions& options = {}) {
  try {
    tiny.load(options);
    ADD_FAILURE() << "was loaded";
  } catch (const Error& error) {
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << part << " is not in: " << error.what();
    }
  }
}

class EveryArchitecture : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Model, EveryArchitecture,
                         testing::Values("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"));

TEST_P(EveryArchitecture, LogitsMatchPlainCodeInDouble) {
  const TinyModel tiny(GetParam());
  Model model = tiny.load();
  const std::vector<int> ids = some_ids(9, tiny.vocab);
  const std::vector<float> got = last_logits(model, ids);
  const Row expected = tiny.logits(ids);
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (got[i] - expected[i]) * (got[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  // Two layers of sums of at most 40 terms: some 200 roundings of 2^-24 on the way, not all one way.
  EXPECT_LT(std::sqrt(difference / size), 200 * 0x1p-24);
}

TEST(Model, OnePassChunksAndSingleTokensAgree) {
  const TinyModel tiny("Qwen3ForCausalLM");
  Model model = tiny.load();
  const std::vector<int> ids = some_ids(520, tiny.vocab);  // longer than one pass of 512
  const auto vocab = static_cast<size_t>(tiny.vocab);
  std::vector<float> all(ids.size() * vocab), stepped(vocab);
  KvCache cache(model.config(), 520);
  model.forward(ids, cache, all, true);
  EXPECT_EQ(cache.length(), 520);
  cache.clear();
  for (size_t t = 0; t < ids.size(); ++t) {
    model.forward(std::span(ids).subspan(t, 1), cache, stepped);
    for (size_t i = 0; i < vocab; ++i) ASSERT_NEAR(stepped[i], all[t * vocab + i], 1e-4) << t;
  }
  EXPECT_EQ(last_logits(model, ids),
            std::vector<float>(all.end() - static_cast<std::ptrdiff_t>(vocab), all.end()));
}

TEST(Model, SixteenBitActivationsRoundAtTheLinearsOnly) {
  const TinyModel tiny("LlamaForCausalLM");
  Model exact = tiny.load();
  Model rounded = tiny.load({.activations = DType::kBF16});
  const std::vector<int> ids = some_ids(9, tiny.vocab);
  const std::vector<float> a = last_logits(exact, ids), b = last_logits(rounded, ids);
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += a[i] * a[i];
  }
  EXPECT_GT(difference, 0);
  EXPECT_LT(std::sqrt(difference / size), 0x1p-8 * 5);  // 9 linears deep, each 2^-9 at random
}

TEST(Model, ListsItsLinearsAndCountsThem) {
  const TinyModel tiny("Qwen3ForCausalLM");
  int64_t calls = 0, last = 0;
  const test::TempCheckpoint directory(tiny.config.dump(), tiny.tensors);
  const Model model = Model::load(directory.open(), {}, [&](int64_t done, int64_t total) {
    EXPECT_EQ(done, ++calls);
    last = total;
  });
  const auto list = model.linears();
  ASSERT_EQ(list.size(), 15u);
  EXPECT_EQ(calls, 15);
  EXPECT_EQ(last, 15);
  EXPECT_EQ(list[0].module, "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(list[13].module, "model.layers.1.mlp.down_proj");
  EXPECT_EQ(list[14].module, "lm_head");
  EXPECT_EQ(list[14].stored_as, "model.embed_tokens");
  const int64_t parameters = 2 * (24 * 32 * 2 + 24 * 16 * 2 + 3 * 24 * 40) + 31 * 24;
  EXPECT_EQ(model.linear_parameters(), parameters);
  EXPECT_EQ(model.linear_bytes(), static_cast<size_t>(parameters) * 4);
  EXPECT_EQ(model.other_bytes(), (24u + 2 * (24 + 24 + 8 + 8)) * 4);  // norms; the embedding is lm_head's
}

TEST(Model, QuantizesAtLoadAllButLmHead) {
  const TinyModel tiny("LlamaForCausalLM");
  Model model = tiny.load({.quantize_at_load = QuantizeScheme::kChannel});
  const auto list = model.linears();
  for (const auto& info : list) {
    const QuantScheme& scheme = info.linear->config().scheme;
    EXPECT_EQ(scheme.weight.dtype, info.module == "lm_head" ? DType::kF32 : DType::kE4M3) << info.module;
  }
  EXPECT_TRUE(list[0].linear->config().bias);
  const std::vector<int> ids = some_ids(9, tiny.vocab);
  const std::vector<float> got = last_logits(model, ids);
  const Row expected = tiny.logits(ids);
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (got[i] - expected[i]) * (got[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  EXPECT_LT(std::sqrt(difference / size), 5 * 0x1p-4);  // e4m3 rounds by at most 2^-4
}

TEST(Model, TiedModelIgnoresAnLmHeadOnDisk) {
  TinyModel tiny("Qwen3ForCausalLM");
  Model without = tiny.load();
  tiny.add("lm_head.weight", {tiny.vocab, tiny.hidden}, 1);
  Model with = tiny.load();
  const std::vector<int> ids = some_ids(4, tiny.vocab);
  EXPECT_EQ(last_logits(with, ids), last_logits(without, ids));
}

TEST(Model, SaysWhichTensorDoesNotFit) {
  TinyModel tiny("Qwen2ForCausalLM");
  TinyModel broken = tiny;
  broken.remove("lm_head.weight");
  expect_load_error(broken, {"lm_head.weight", "tie_word_embeddings"});
  broken = tiny;
  broken.remove("model.layers.1.mlp.up_proj.weight");
  expect_load_error(broken, {"model.layers.1.mlp.up_proj.weight", "missing", "[40, 24]"});
  broken = tiny;
  broken.remove("model.layers.0.self_attn.k_proj.bias");
  expect_load_error(broken, {"model.layers.0.self_attn.k_proj.bias", "missing"});
  broken = tiny;
  broken.add("model.layers.0.mlp.down_proj.bias", {24}, 1);
  expect_load_error(broken, {"model.layers.0.mlp.down_proj.bias", "no bias"});
  broken = tiny;
  broken.config["intermediate_size"] = 48;
  expect_load_error(broken, {"model.layers.0.mlp.gate_proj.weight", "[40, 24]", "[48, 24]"});
  broken = tiny;
  broken.remove("model.norm.weight");
  broken.tensors.push_back({"model.norm.weight", test::filled(DType::kE4M3, {24}, 1)});
  expect_load_error(broken, {"model.norm.weight", "e4m3"});
  broken = tiny;
  broken.remove("model.embed_tokens.weight");
  expect_load_error(broken, {"model.embed_tokens.weight"});
  expect_load_error(tiny, {"CPU"}, {.device = device_from_name("sm_86")});
}

TEST(Model, SaysWhichSizeWasAssumed) {
  TinyModel tiny("Qwen2ForCausalLM");
  tiny.config.erase("num_key_value_heads");
  expect_load_error(tiny, {"k_proj.weight", "[16, 24]", "[32, 24]", "num_key_value_heads is absent"});
  tiny = TinyModel("Qwen3ForCausalLM");
  tiny.config.erase("head_dim");
  expect_load_error(tiny, {"head_dim is absent there and taken as 128"});
}

// Such a checkpoint runs, and writes fluent text that is not the model's.
TEST(Model, RefusesWeightsThatNothingUses) {
  TinyModel tiny("Qwen3ForCausalLM");
  tiny.config["num_hidden_layers"] = 1;
  expect_load_error(tiny, {"model.layers.1.input_layernorm.weight", "and 10 more", "of 1 layers"});
  tiny = TinyModel("LlamaForCausalLM");
  tiny.add("model.layers.0.self_attn.q_norm.weight", {8}, 1);
  expect_load_error(tiny, {"model.layers.0.self_attn.q_norm.weight", "and 0 more", "LlamaForCausalLM"});
  tiny = TinyModel("LlamaForCausalLM");
  tiny.add("lm_head.lora_A.weight", {8}, 1);
  expect_load_error(tiny, {"lm_head.lora_A.weight"});
  tiny = TinyModel("LlamaForCausalLM");
  tiny.add("model.layers.2.self_attn.k_scale", {1}, 1);  // of a layer there is not
  expect_load_error(tiny, {"model.layers.2.self_attn.k_scale"});
}

TEST(Model, LeavesScalesAndTablesThatDoNotConcernItAndWarnsOnceOfTheRest) {
  TinyModel tiny("LlamaForCausalLM");
  for (const char* name :
       {"model.layers.0.self_attn.k_scale", "model.layers.1.self_attn.v_proj.output_scale",
        "model.layers.0.mlp.up_proj.input_scale_ub", "model.layers.1.self_attn.rotary_emb.inv_freq",
        "model.rotary_emb.inv_freq", "vision.a.weight", "vision.b.weight"}) {
    tiny.add(name, {1}, 1);
  }
  std::vector<std::string> warnings;
  set_log_sink([&](LogLevel, std::string_view text) { warnings.emplace_back(text); });
  EXPECT_NO_THROW(tiny.load());
  set_log_sink({});
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("\"vision.a.weight\" and 1 more"), std::string::npos) << warnings[0];
}

TEST(Model, ForwardRefusesWhatDoesNotFit) {
  const TinyModel tiny("LlamaForCausalLM");
  Model model = tiny.load();
  KvCache cache(model.config(), 3);
  std::vector<float> logits(31), more(62);
  const auto forward = [&](const std::vector<int>& ids, std::span<float> out, bool all = false) {
    model.forward(ids, cache, out, all);
  };
  EXPECT_THROW(forward({}, logits), Error);
  EXPECT_THROW(forward({31}, logits), Error);
  EXPECT_THROW(forward({-1}, logits), Error);
  EXPECT_THROW(forward({1, 2}, logits, true), Error);
  EXPECT_THROW(forward({1}, more), Error);
  EXPECT_THROW(forward({1, 2, 3, 4}, logits), Error);
  EXPECT_EQ(cache.length(), 0);
  forward({1, 2, 3}, logits);
  EXPECT_THROW(forward({1}, logits), Error);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // these keep memory of their own

int64_t resident_bytes() {
  int64_t all = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> all >> resident;
  return resident * ::getpagesize();
}

// Files may have small weights and wide layers.
TEST(Model, BuffersOfALongPromptStayBelowTheirBound) {
  const TinyModel tiny("LlamaForCausalLM", 2, 1 << 17);
  Model model = tiny.load();
  const int64_t before = resident_bytes();
  last_logits(model, some_ids(400, tiny.vocab));  // in one pass: 400 * 2^17 * 3 floats, 629 MB
  EXPECT_LT(resident_bytes() - before, 300 << 20);
}

TEST(Perplexity, LogitsStayBelowTheirBound) {
  const TinyModel tiny("LlamaForCausalLM", 2, 40, 1 << 20);
  Model model = tiny.load();
  const int64_t before = resident_bytes();
  int64_t grown = 0;
  const auto measure = [&](int64_t, int64_t) { grown = resident_bytes() - before; };
  perplexity(model, some_ids(41, tiny.vocab), 40, measure);  // in one pass: 40 * 2^20 floats, 168 MB
  EXPECT_LT(grown, 64 << 20);
}

#endif

TEST(Perplexity, IsTheMeanOverWindowsSeenAlone) {
  const TinyModel tiny("Qwen2ForCausalLM");
  Model model = tiny.load();
  const std::vector<int> ids = some_ids(8, tiny.vocab);  // windows of 3: 3 + 3 + 1 targets
  double sum = 0;
  for (size_t target = 1; target < ids.size(); ++target) {
    const size_t begin = (target - 1) / 3 * 3;
    const Row logits = tiny.logits({ids.begin() + static_cast<std::ptrdiff_t>(begin),
                                    ids.begin() + static_cast<std::ptrdiff_t>(target)});
    double total = 0;
    for (const double logit : logits) total += std::exp(logit);
    sum += std::log(total) - logits[static_cast<size_t>(ids[target])];
  }
  const PerplexityResult result = perplexity(model, ids, 3);
  EXPECT_EQ(result.targets, 7);
  EXPECT_NEAR(result.perplexity / std::exp(sum / 7), 1.0, 1e-4);
  EXPECT_THROW(perplexity(model, {ids.data(), 1}, 3), Error);
  EXPECT_THROW(perplexity(model, ids, 0), Error);
  EXPECT_THROW(perplexity(model, ids, 601), Error);
}

TEST(Perplexity, ALossThatIsNotFiniteIsAnErrorThatNamesItsWindow) {
  TinyModel tiny("Qwen2ForCausalLM");
  auto& embedding = tiny.weights["model.embed_tokens.weight"];
  embedding[5 * 24] = std::numeric_limits<float>::quiet_NaN();  // of id 5 alone
  tiny.remove("model.embed_tokens.weight");
  tiny.tensors.push_back({"model.embed_tokens.weight", test::values(DType::kF32, {31, 24}, embedding)});
  Model model = tiny.load();
  const std::vector<int> ids = {1, 2, 3, 4, 6, 5, 7, 8};
  EXPECT_NO_THROW(perplexity(model, std::span(ids).first(6), 3));  // 5 is only a target
  try {
    perplexity(model, ids, 3);
    ADD_FAILURE() << "gave a number";
  } catch (const Error& error) {
    EXPECT_NE(std::string_view(error.what()).find("window 2 of 3"), std::string_view::npos) << error.what();
  }
}

}  // namespace
}  // namespace anyfp8
