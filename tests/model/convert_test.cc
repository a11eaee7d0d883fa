// Other people's models, in and out: logits of transformers for every family (tests/golden/make/families.py), through
// whole sequences and through pages; the list of tensors; files that are refused, and that nothing is left then.
#include "engram/model/convert/convert_model.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "engram/core/json.h"
#include "engram/model/convert/model_tensors.h"
#include "engram/model/io/checkpoint_names.h"
#include "engram/model/parameters.h"
#include "tests/fault_env.h"
#include "tests/model/parity.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

const std::string kFamilies = std::string(ENGRAM_SOURCE_DIR) + "/tests/parity/families/";

// A copy of a family's folder with a tokenizer in it.
std::string copy_family(const std::string& name, const TemporaryFolder& folder) {
  const std::string copy = folder / name;
  std::filesystem::copy(kFamilies + name, copy);
  throw_if_error(write_file_atomic(Env::posix(), copy + "/tokenizer.json", tiny_tokenizer().json()));
  return copy;
}

LoadedModel import_and_load(const std::string& source, const std::string& destination) {
  Env& env = Env::posix();
  throw_if_error(import_model(env, value_or_throw(open_source_model(env, source)), destination));
  return value_or_throw(load_model(env, destination));
}

// By the names of the file.
parity::Tensors weights_of(const LoadedModel& model) {
  parity::Tensors weights;
  for (const StoredTensor& stored : stored_tensors(*model.model).model)
    weights[stored.tensor.name] = stored.tensor.read(0, stored.tensor.rows()).clone();
  return weights;
}

// A prompt in two chunks, then token by token.
torch::Tensor paged_logits(const LoadedModel& model, const torch::Tensor& tokens) {
  const int64_t length = tokens.size(0), block = 8, blocks = (length + block - 1) / block;
  PagedCache cache(model.config, blocks, block);
  std::vector<int32_t> pages;
  for (int64_t i = blocks; i > 0; --i) pages.push_back(static_cast<int32_t>(i - 1));
  std::vector<torch::Tensor> parts;
  for (int64_t done = 0; done < length;) {
    const int64_t count = done < 30 ? 15 : 1;
    const PagedStep step({{done, count, pages, false}}, block);
    StepInput input;
    input.tokens = tokens.narrow(0, done, count);
    input.step = &step;
    input.cache = &cache;
    input.memory = [](int) { return torch::Tensor(); };
    parts.push_back(model.model->logits(model.model->step(input)));
    done += count;
  }
  return torch::cat(parts);
}

void expect_logits(const LoadedModel& model, const std::string& name) {
  const parity::Tensors vectors = parity::load("families/" + name + "_logits");
  const torch::Tensor tokens = vectors.at("tokens"), wanted = vectors.at("logits")[0];
  const torch::InferenceMode inference;
  ForwardInput input;
  input.tokens = tokens;
  const torch::Tensor whole = model.model->logits(model.model->forward(input))[0];
  EXPECT_LT((whole - wanted).abs().max().item<double>(), 1e-4) << name;
  EXPECT_LT((paged_logits(model, tokens[0]) - wanted).abs().max().item<double>(), 1e-4) << name;
}

TEST(Convert, LogitsEqualTransformers) {
  for (const char* name : {"llama", "llama_31", "llama_linear", "qwen2", "qwen2_yarn", "qwen3", "mistral",
                           "deepseek_v3", "deepseek_v3_no_groups"}) {
    TemporaryFolder folder;
    const LoadedModel model = import_and_load(copy_family(name, folder), folder / "out");
    expect_logits(model, name);
    EXPECT_EQ(model.special.bos, 1);
    EXPECT_EQ(model.special.eos, 2);
    EXPECT_EQ(model.special.ends_text(3), std::string(name) == "llama_linear");
    EXPECT_EQ(model.tokenizer->vocab_size(), 264);  // more than the tokenizer's own 257
    EXPECT_EQ(model.tokenizer->token_bytes(263), "");
    EXPECT_TRUE(model.tokenizer->is_special(263));
    // There and back: the bytes of a file that was one.
    throw_if_error(export_hf_folder(Env::posix(), folder / "out", folder / "back"));
    const auto again = value_or_throw(open_source_model(Env::posix(), folder / "back"));
    EXPECT_EQ(again.file.config.to_json(), model.config.to_json()) << name;
  }
}

// tokenizer_config.json names the tokens that a template prints; the ends of a text stay.
TEST(Convert, ChatTemplatesAndTheirTokens) {
  TemporaryFolder folder;
  Env& env = Env::posix();
  const std::string source = copy_family("llama_linear", folder);
  const auto opened = [&](const std::string& json) {
    throw_if_error(write_file_atomic(env, source + "/tokenizer_config.json", json));
    return value_or_throw(open_source_model(env, source)).file;
  };
  CheckpointConfig file = opened(R"({"bos_token": null, "eos_token": {"content": "<|endoftext|>"}})");
  EXPECT_EQ(file.chat_template, "");
  EXPECT_EQ(file.special.bos, 1);
  EXPECT_EQ(file.special.eos, 0);
  EXPECT_EQ(file.special.more_eos, (std::vector<int32_t>{2, 3}));
  file = opened(R"({"bos_token": "<|endoftext|>", "eos_token": "nowhere", "chat_template": "c"})");
  EXPECT_EQ(file.chat_template, "c");
  EXPECT_EQ(file.special.bos, 0);
  EXPECT_EQ(file.special.eos, 2);
  throw_if_error(write_file_atomic(env, source + "/chat_template.jinja", "d"));
  EXPECT_EQ(opened(R"({"chat_template": "c"})").chat_template, "d");
}

TEST(Convert, GgufEqualsTransformers) {
  TemporaryFolder folder;
  const LoadedModel model = import_and_load(kFamilies + "llama.gguf", folder / "out");
  expect_logits(model, "llama_gguf");
  EXPECT_EQ(model.config.rope_theta, 50000);
  EXPECT_EQ(model.config.rms_norm_eps, 1e-6);
  EXPECT_EQ(value_or_throw(model.tokenizer->encode("he h")).size(), 3u);
  const parity::Tensors vectors = parity::load("families/llama_gguf_logits");
  for (const auto& [name, weight] : weights_of(model)) {
    EXPECT_TRUE(weight.equal(vectors.at(name))) << name;  // bit for bit
  }
}

TEST(Convert, Bf16IsRounded) {
  TemporaryFolder folder;
  Env& env = Env::posix();
  const SourceModel source = value_or_throw(open_source_model(env, copy_family("deepseek_v3", folder)));
  ConvertOptions options;
  options.bf16 = true;
  throw_if_error(import_model(env, source, folder / "bf16", options));
  throw_if_error(import_model(env, source, folder / "exact"));
  const LoadedModel rounded = value_or_throw(load_model(env, folder / "bf16"));
  const LoadedModel exact = value_or_throw(load_model(env, folder / "exact"));
  const parity::Tensors ours = weights_of(rounded);
  size_t bytes = 0;
  std::vector<const char*> begins;
  for (const torch::Tensor& weight : rounded.model->parameters()) {
    bytes += (weight.nbytes() + 63) / 64 * 64;
    begins.push_back(static_cast<const char*>(weight.const_data_ptr()));
  }
  const auto [first, last] = std::minmax_element(begins.begin(), begins.end());
  EXPECT_LT(static_cast<size_t>(*last - *first), bytes) << "side by side, for huge pages";
  for (const auto& [name, weight] : weights_of(exact)) {
    const bool stays = name.ends_with(".e_score_correction_bias");
    EXPECT_TRUE(ours.at(name).equal(stays ? weight : weight.to(torch::kBFloat16).to(torch::kFloat))) << name;
  }
}

TEST(Convert, TensorsAreThoseOfTheModel) {
  ModelConfig base = tiny_config(tiny_tokenizer(), MemoryKind::kNone);
  base.residual = ResidualKind::kPlain;
  base.hc_mult = base.num_key_value_heads = 1;
  std::vector<ModelConfig> configs(6, base);
  configs[1].q_lora_rank = 8;
  configs[1].shared_expert_intermediate_size = 0;
  for (size_t i = 2; i < configs.size(); ++i) configs[i].attention = AttentionKind::kGqa;
  configs[3].ffn = configs[4].ffn = FfnKind::kDense;
  configs[3].qkv_bias = configs[3].tie_word_embeddings = true;
  configs[4].qk_norm = configs[5].qk_norm = configs[5].qkv_bias = true;
  for (const ModelConfig& config : configs) {
    std::map<std::string, std::vector<int64_t>> listed, wanted;
    throw_if_error(visit_model_tensors(config, [&](TensorSpec spec) {
      listed[spec.name] = spec.shape;
      return Status();
    }));
    Transformer model(config);
    int64_t count = 0;
    for (const StoredTensor& stored : stored_tensors(*model).model) wanted[stored.tensor.name] = stored.tensor.shape;
    for (const auto& parameter : model->parameters()) count += parameter.numel();
    EXPECT_EQ(listed, wanted) << config.to_json().dump();
    const ParameterCount counted = value_or_throw(count_parameters(config));
    EXPECT_EQ(counted.p_tot + counted.vocabulary, count);
  }
}

// config.json of a family with one key changed; "" or the line that refuses it.
std::string refusal(const std::string& family, const std::string& key, const nlohmann::json& value) {
  TemporaryFolder folder;
  const std::string copy = copy_family(family, folder), path = copy + "/config.json";
  nlohmann::json config = value_or_throw(read_json_file(Env::posix(), path));
  config[key] = value;
  throw_if_error(write_file_atomic(Env::posix(), path, config.dump()));
  const auto source = open_source_model(Env::posix(), copy);
  if (source.ok()) return "";
  const std::string& message = source.status().message();
  return message.starts_with(path + ": ") ? message.substr(path.size() + 2) : message;
}

TEST(Convert, ArithmeticThatIsNotThereIsRefusedByName) {
  EXPECT_EQ(refusal("mistral", "sliding_window", 32),
            "sliding_window: got 32 with max_position_embeddings 64, wanted null (a window is not implemented)");
  EXPECT_EQ(refusal("mistral", "sliding_window", 64), "");  // as long as the context
  EXPECT_EQ(refusal("qwen2", "use_sliding_window", true), "use_sliding_window: got true, wanted false");
  EXPECT_EQ(refusal("qwen3", "layer_types", {"full_attention", "sliding_attention"}),
            "layer_types: got 'sliding_attention', wanted \"full_attention\"");
  EXPECT_EQ(refusal("llama", "attn_logit_softcapping", 50.0), "attn_logit_softcapping: got 50, wanted null");
  EXPECT_EQ(refusal("llama", "final_logit_softcapping", 30.0), "final_logit_softcapping: got 30, wanted null");
  EXPECT_EQ(refusal("llama", "final_logit_softcapping", nullptr), "");
  EXPECT_EQ(refusal("llama", "attention_bias", true), "attention_bias: got true, wanted false");
  EXPECT_EQ(refusal("llama", "hidden_act", "gelu"), "hidden_act: got 'gelu', wanted \"silu\"");
  EXPECT_EQ(refusal("llama", "rope_parameters", {{"rope_type", "longrope"}}),
            "rope_parameters.rope_type: got 'longrope', wanted \"default\", \"linear\", \"llama3\" or \"yarn\"");
  EXPECT_EQ(refusal("llama", "quantization_config", {{"quant_method", "fp8"}}),
            "unknown key 'quantization_config': it may change what the model computes, and there is no place for it "
            "here");
  EXPECT_EQ(refusal("llama", "model_type", "gemma3"),
            "model_type: got 'gemma3', wanted \"llama\", \"qwen2\", \"qwen3\", \"mistral\" or \"deepseek_v3\"");
  EXPECT_EQ(refusal("deepseek_v3", "scoring_func", "softmax"), "scoring_func: got 'softmax', wanted \"sigmoid\"");
  EXPECT_EQ(refusal("deepseek_v3", "num_key_value_heads", 2), "num_key_value_heads: got 2, wanted 4");
}

TEST(Convert, AModelWithAMemoryBringsItsOwnCode) {
  TemporaryFolder folder;
  const Tokenizer tokenizer = tiny_tokenizer();
  const TinyModel tiny = tiny_model(tiny_config(tokenizer));
  save_tiny(tiny, tokenizer, folder / "tiny");
  throw_if_error(export_hf_folder(Env::posix(), folder / "tiny", folder / "out"));
  const nlohmann::json config = value_or_throw(read_json_file(Env::posix(), folder / "out/config.json"));
  EXPECT_EQ(config["auto_map"]["AutoModelForCausalLM"], "modeling_engram.EngramForCausalLM");
  EXPECT_TRUE(std::filesystem::exists(folder / "out/modeling_engram.py"));
  const auto file = value_or_throw(SafetensorsFile::open(Env::posix(), folder / "out/model.safetensors"));
  const TensorView rows = value_or_throw(file.find("model.layers.2.engram.embed.weight"));
  EXPECT_EQ(std::memcmp(rows.bytes.data(), tiny.tables[1].const_data_ptr<float>(), rows.bytes.size()), 0);
  EXPECT_EQ(value_or_throw(file.find("model.layers.1.engram.primes")).shape, std::vector<int64_t>{4});
}

TEST(Convert, AFailedWriteLeavesNothing) {
  TemporaryFolder folder;
  const SourceModel source = value_or_throw(open_source_model(Env::posix(), copy_family("llama", folder)));
  FaultyEnv counting(Env::posix());
  throw_if_error(import_model(counting, source, folder / "out"));
  for (int64_t n = 0; n < counting.changes(); ++n) {
    std::filesystem::remove_all(folder / "out");
    FaultyEnv env(Env::posix(), {.fail_change = n});
    const Status status = import_model(env, source, folder / "out");
    EXPECT_FALSE(std::filesystem::exists(folder / "out.tmp")) << n;
    // Where only the last sync fails the folder is there, and whole.
    if (std::filesystem::exists(folder / "out")) throw_if_error(load_model(Env::posix(), folder / "out").status());
    EXPECT_TRUE(!status.ok() || std::filesystem::exists(folder / "out")) << n;
  }
  std::filesystem::remove_all(folder / "out");
  ConvertOptions options;
  options.on_progress = [](int64_t, int64_t) { return false; };
  EXPECT_EQ(import_model(Env::posix(), source, folder / "out", options).code(), StatusCode::kCancelled);
  std::filesystem::create_directory(folder / "out");
  EXPECT_EQ(import_model(Env::posix(), source, folder / "out").code(), StatusCode::kAlreadyExists);
}

}  // namespace
}  // namespace engram
