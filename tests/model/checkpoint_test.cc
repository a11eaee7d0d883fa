// Checkpoints: bit-exact round trips, names on disk, and every way a directory can be wrong.
#include "engram/model/io/checkpoint.h"

#include <fstream>
#include <set>

#include "engram/core/json.h"
#include "engram/formats/safetensors.h"
#include "tests/model/rules.h"
#include "tests/model/tiny_checkpoint.h"

namespace engram {
namespace {

void expect_equal_models(const TransformerImpl& a, const TransformerImpl& b) {
  const auto of_a = a.named_parameters(), of_b = b.named_parameters();
  ASSERT_EQ(of_a.size(), of_b.size());
  for (const auto& item : of_a) EXPECT_TRUE(torch::equal(item.value(), of_b[item.key()])) << item.key();
  const auto buffers = b.named_buffers();
  for (const auto& item : a.named_buffers()) EXPECT_TRUE(torch::equal(item.value(), buffers[item.key()])) << item.key();
}

TEST(Checkpoint, RoundTripIsExact) {
  const Tokenizer tokenizer = tiny_tokenizer();
  std::vector<ModelConfig> configs;
  for (MemoryKind memory : {MemoryKind::kEngram, MemoryKind::kNone, MemoryKind::kOverEncoding}) {
    configs.push_back(tiny_config(tokenizer, memory));
  }
  configs[1].attention = AttentionKind::kGqa;
  configs[1].num_key_value_heads = 1;
  configs[1].tie_word_embeddings = true;
  configs[2].q_lora_rank = 12;
  configs[2].residual = ResidualKind::kPlain;
  configs[2].hc_mult = 1;
  for (const HashRule rule : {HashRule::kQwen4Exp, HashRule::kLongcat})
    configs.push_back(with_rule(tiny_config(tokenizer), rule));
  for (const ModelConfig& config : configs) {
    const TemporaryFolder folder;
    const TinyModel tiny = tiny_model(config);
    save_tiny(tiny, tokenizer, folder / "step");
    const LoadedModel loaded = value_or_throw(load_model(Env::posix(), folder / "step"));
    expect_equal_models(*tiny.model, *loaded.model);
    EXPECT_EQ(loaded.config.to_json(), config.to_json());
    EXPECT_EQ(loaded.special.eos, tokenizer.token_id("<|endoftext|>"));
    EXPECT_FALSE(loaded.model->is_training());
    const auto rows = value_or_throw(load_table_rows(Env::posix(), folder / "step", config));
    ASSERT_EQ(rows.size(), tiny.tables.size());
    for (size_t i = 0; i < rows.size(); ++i) EXPECT_TRUE(torch::equal(rows[i], tiny.tables[i]));

    TinyModel other = tiny_model(config, 2);
    throw_if_error(load_weights(Env::posix(), folder / "step", *other.model));
    expect_equal_models(*tiny.model, *other.model);
  }
}

TEST(Checkpoint, SavingTwiceGivesTheSameBytes) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const TemporaryFolder folder;
  const TinyModel tiny = tiny_model(tiny_config(tokenizer));
  save_tiny(tiny, tokenizer, folder / "a");
  save_tiny(tiny, tokenizer, folder / "b");
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors", "engram.safetensors"}) {
    EXPECT_EQ(value_or_throw(Env::posix().read_file(folder / "a/" + name)),
              value_or_throw(Env::posix().read_file(folder / "b/" + name)));
  }
  const auto names = value_or_throw(Env::posix().list_directory(folder / "a"));
  EXPECT_EQ(names.size(), 4u);
}

TEST(Checkpoint, Bf16CopiesAreRoundedOnce) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const TemporaryFolder folder;
  const TinyModel tiny = tiny_model(tiny_config(tokenizer));
  save_tiny(tiny, tokenizer, folder / "step", torch::kBFloat16);
  const LoadedModel loaded = value_or_throw(load_model(Env::posix(), folder / "step"));
  const auto parameters = loaded.model->named_parameters();
  for (const auto& item : tiny.model->named_parameters()) {
    const torch::Tensor rounded = item.value().to(torch::kBFloat16).to(torch::kFloat);
    EXPECT_TRUE(torch::equal(rounded, parameters[item.key()])) << item.key();
  }
  const auto buffers = loaded.model->named_buffers();  // routing biases stay fp32
  for (const auto& item : tiny.model->named_buffers()) EXPECT_TRUE(torch::equal(item.value(), buffers[item.key()]));
}

TEST(Checkpoint, NamesAreDeepSeeks) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const TemporaryFolder folder;
  const TinyModel tiny = tiny_model(tiny_config(tokenizer));
  save_tiny(tiny, tokenizer, folder / "step");
  auto shape_of = [&](const char* file, const std::string& name) {
    const auto opened = value_or_throw(SafetensorsFile::open(Env::posix(), folder / "step/" + file));
    return value_or_throw(opened.find(name)).shape;
  };
  using Shape = std::vector<int64_t>;
  EXPECT_EQ(shape_of("model.safetensors", "model.layers.1.mlp.experts.4.gate_proj.weight"), (Shape{16, 32}));
  EXPECT_EQ(shape_of("model.safetensors", "model.layers.1.mlp.experts.0.down_proj.weight"), (Shape{32, 16}));
  EXPECT_EQ(shape_of("model.safetensors", "model.layers.2.mlp.shared_experts.up_proj.weight"), (Shape{16, 32}));
  EXPECT_EQ(shape_of("model.safetensors", "model.layers.1.mlp.gate.e_score_correction_bias"), (Shape{5}));
  EXPECT_EQ(shape_of("model.safetensors", "model.layers.0.mlp.gate_proj.weight"), (Shape{48, 32}));
  EXPECT_EQ(shape_of("model.safetensors", "model.layers.0.self_attn.q_proj.weight"), (Shape{48, 32}));
  EXPECT_EQ(shape_of("model.safetensors", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"), (Shape{40, 32}));
  EXPECT_EQ(shape_of("engram.safetensors", "layers.2.engram.wkv.weight"), (Shape{96, 32}));
  EXPECT_EQ(shape_of("engram.safetensors", "layers.2.engram.q_weight"), (Shape{2, 32}));
  EXPECT_EQ(shape_of("engram.safetensors", "layers.1.engram.k_weight"), (Shape{2, 32}));
  EXPECT_EQ(shape_of("engram.safetensors", "layers.1.engram.embed.weight")[1], 8);

  // The second expert's up projection is the lower half of its fused rows.
  const auto file = value_or_throw(SafetensorsFile::open(Env::posix(), folder / "step/model.safetensors"));
  const TensorView up = value_or_throw(file.find("model.layers.1.mlp.experts.1.up_proj.weight"));
  const torch::Tensor fused = tiny.model->named_parameters()["model.layers.1.mlp.experts.gate_up"];
  const torch::Tensor expected = fused[1].narrow(0, 16, 16).contiguous();
  EXPECT_EQ(std::memcmp(up.bytes.data(), expected.data_ptr(), up.bytes.size()), 0);
}

TEST(Checkpoint, ResolvesOutputsAndSteps) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const TemporaryFolder folder;
  save_tiny(tiny_model(tiny_config(tokenizer, MemoryKind::kNone)), tokenizer, folder / "step-00000040");
  EXPECT_EQ(value_or_throw(resolve_checkpoint(Env::posix(), folder / "step-00000040")), folder / "step-00000040");
  EXPECT_EQ(resolve_checkpoint(Env::posix(), folder.path()).status().code(), StatusCode::kNotFound);
  throw_if_error(Env::posix().replace_symlink("step-00000040", folder / "latest"));
  EXPECT_EQ(value_or_throw(resolve_checkpoint(Env::posix(), folder.path())), folder / "step-00000040");
  EXPECT_EQ(value_or_throw(load_model(Env::posix(), folder.path())).directory, folder / "step-00000040");
}

TEST(Checkpoint, SaveRefusesWhatDoesNotFit) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const TemporaryFolder folder;
  TinyModel tiny = tiny_model(tiny_config(tokenizer));
  tiny.tables[1] = torch::zeros({3, 8});
  EXPECT_FALSE(save_model(Env::posix(), folder / "x", make_checkpoint_config(tiny.config, tokenizer), tokenizer,
                          *tiny.model, tiny.rows())
                   .ok());
  tiny.tables.pop_back();
  EXPECT_FALSE(save_model(Env::posix(), folder / "x", make_checkpoint_config(tiny.config, tokenizer), tokenizer,
                          *tiny.model, tiny.rows())
                   .ok());
  EXPECT_FALSE(Env::posix().file_exists(folder / "x"));
}

// ---- damage ----

class Damaged : public ::testing::Test {
 protected:
  Damaged() : tokenizer_(tiny_tokenizer()), tiny_(tiny_model(tiny_config(tokenizer_))) {
    save_tiny(tiny_, tokenizer_, folder_ / "step");
  }
  std::string file(const std::string& name) const { return folder_ / "step/" + name; }
  void write(const std::string& name, const std::string& bytes) {
    std::ofstream(file(name), std::ios::binary | std::ios::trunc) << bytes;
  }
  std::string read(const std::string& name) { return value_or_throw(Env::posix().read_file(file(name))); }
  void edit_config(const std::function<void(nlohmann::json&)>& edit) {
    nlohmann::json json = nlohmann::json::parse(read("config.json"));
    edit(json);
    write("config.json", json.dump());
  }
  // Rewrites a safetensors file with other specs; bytes are zero.
  void rewrite(const std::string& name, const std::function<void(std::vector<TensorSpec>&)>& edit) {
    std::vector<TensorSpec> specs;
    {
      const auto opened = value_or_throw(SafetensorsFile::open(Env::posix(), file(name)));
      for (const auto& [key, view] : opened.tensors()) specs.push_back({key, view.dtype, view.shape});
    }
    edit(specs);
    auto writer = value_or_throw(SafetensorsWriter::create(Env::posix(), file(name), specs));
    for (const TensorSpec& spec : specs) {
      throw_if_error(writer->append(std::vector<std::byte>(static_cast<size_t>(spec.num_bytes()))));
    }
    throw_if_error(writer->finish());
  }
  // Loading fails with these words, and an existing model keeps every bit.
  void expect_refused(const std::vector<std::string>& parts, bool weights_too = false) {
    const Result<LoadedModel> loaded = load_model(Env::posix(), folder_ / "step");
    ASSERT_FALSE(loaded.ok());
    for (const std::string& part : parts) {
      EXPECT_NE(loaded.status().message().find(part), std::string::npos) << loaded.status().message();
    }
    EXPECT_EQ(loaded.status().message().find('\n'), std::string::npos);
    if (!weights_too) return;
    TinyModel before = tiny_model(tiny_.config, 7), after = tiny_model(tiny_.config, 7);
    EXPECT_FALSE(load_weights(Env::posix(), folder_ / "step", *after.model).ok());
    expect_equal_models(*before.model, *after.model);
  }

  TemporaryFolder folder_;
  Tokenizer tokenizer_;
  TinyModel tiny_;
};

TEST_F(Damaged, MissingFiles) {
  for (const char* name : {"model.safetensors", "engram.safetensors", "tokenizer.json", "config.json"}) {
    const std::string bytes = read(name);
    std::filesystem::remove(file(name));
    expect_refused({std::string(name) == "config.json" ? "config.json" : file(name)});
    write(name, bytes);
  }
}

TEST_F(Damaged, TruncatedAtAnyPlace) {
  for (const char* name : {"model.safetensors", "engram.safetensors", "tokenizer.json", "config.json"}) {
    const std::string whole = read(name);
    for (size_t size : {size_t{0}, size_t{5}, whole.size() / 3, whole.size() - 3}) {
      write(name, whole.substr(0, size));
      expect_refused({file(name)});
    }
    write(name, whole);
  }
  EXPECT_TRUE(load_model(Env::posix(), folder_ / "step").ok());
}

TEST_F(Damaged, WrongShape) {
  rewrite("model.safetensors", [](auto& specs) {
    for (auto& spec : specs)
      if (spec.name == "model.layers.1.mlp.experts.3.up_proj.weight") spec.shape = {32, 16};
  });
  expect_refused({"experts.3.up_proj.weight", "got shape [32, 16], wanted [16, 32]"}, true);
}

TEST_F(Damaged, WrongTableSize) {
  rewrite("engram.safetensors", [](auto& specs) {
    for (auto& spec : specs)
      if (spec.name == "layers.2.engram.embed.weight") spec.shape[0] += 1;
  });
  expect_refused({"layers.2.engram.embed.weight", "got shape"}, true);
  EXPECT_FALSE(load_table_rows(Env::posix(), folder_ / "step", tiny_.config).ok());
}

TEST_F(Damaged, WrongDtype) {
  rewrite("model.safetensors", [](auto& specs) { specs.back().dtype = DType::kI32; });
  expect_refused({"got dtype I32, wanted F32"}, true);
}

TEST_F(Damaged, MissingTensor) {
  rewrite("engram.safetensors", [](auto& specs) {
    std::erase_if(specs, [](const TensorSpec& s) { return s.name == "layers.1.engram.conv.weight"; });
  });
  expect_refused({"'layers.1.engram.conv.weight' is missing"}, true);
}

TEST_F(Damaged, ExtraAndFusedTensors) {
  rewrite("model.safetensors", [](auto& specs) { specs.push_back({"model.extra", DType::kF32, {2}}); });
  expect_refused({"model.extra", "does not use"}, true);
  rewrite("model.safetensors", [](auto& specs) {
    std::erase_if(specs, [](const TensorSpec& s) { return s.name == "model.extra"; });
    specs.push_back({"model.layers.1.mlp.experts.gate_up", DType::kF32, {5, 32, 32}});
  });
  expect_refused({"fused tensor", "experts.gate_up"}, true);
}

TEST_F(Damaged, OtherTokenizer) {
  const Tokenizer other = tiny_tokenizer({"<|other|>"});  // as many tokens, another vocabulary
  write("tokenizer.json", other.json());
  expect_refused({file("tokenizer.json"), "digest", other.vocabulary_digest()});
}

TEST_F(Damaged, ConfigKeys) {
  const std::string whole = read("config.json");
  edit_config([](auto& json) { json["hiden_size"] = 4; });
  expect_refused({file("config.json"), "unknown key 'hiden_size'"});
  write("config.json", whole);
  edit_config([](auto& json) { json["engram"]["head_dims"] = 4; });
  expect_refused({"unknown key 'engram.head_dims'"});
  write("config.json", whole);
  edit_config([](auto& json) { json.erase("vocabulary_digest"); });
  expect_refused({file("config.json"), "vocabulary_digest"});
  write("config.json", whole);
  edit_config([](auto& json) { json["engram"]["compressed_vocab_size"] = 17; });
  expect_refused({"compressed_vocab_size: got 17, wanted"});
  write("config.json", whole);
  edit_config([](auto& json) { json["eos_token_id"] = 100000; });
  expect_refused({"eos_token_id"});
  write("config.json", whole);
  edit_config([](auto& json) { json["memory"] = "none"; });
  expect_refused({"engram.safetensors", "memory"});
}

// A few bytes cannot ask for a huge allocation.
TEST_F(Damaged, HugeConfigIsRefusedBeforeAllocation) {
  edit_config([](auto& json) {
    json["hidden_size"] = 1 << 20;
    json["num_hidden_layers"] = 1024;
  });
  expect_refused({"wanted"});
}

}  // namespace
}  // namespace engram
