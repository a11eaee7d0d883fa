#include "engram/lab/probes/patchscope.h"

#include <nlohmann/json.hpp>

#include "engram/lab/probes/patched_text.h"
#include "engram/text/utf8_stream.h"
#include "tests/lab/probe_test.h"

namespace engram {
namespace {

// The plain form of patched_texts(): every token reads the whole text anew.
std::string text_by_whole_passes(const LoadedModel& model, const std::string& prompt, const Patch& patch,
                                 int max_tokens) {
  std::vector<int32_t> tokens = value_or_throw(model.tokenizer->encode(prompt));
  const auto placeholder = static_cast<int64_t>(tokens.size()) - 1;
  torch::InferenceMode inference;
  ForwardTrace trace;
  trace.after_block = [&](int block, torch::Tensor streams) {
    if (block == patch.block) streams[0][placeholder].copy_(patch.state_Md);
  };
  Utf8Stream stream;
  std::string text;
  for (int i = 0; i < max_tokens; ++i) {
    const auto length = static_cast<int64_t>(tokens.size());
    const Transformer& transformer = model.model;
    const torch::Tensor hidden = transformer->forward(model.prepare_input(tokens, 1, length), &trace);
    tokens.push_back(static_cast<int32_t>(transformer->logits(hidden)[0][length - 1].argmax().item<int64_t>()));
    if (model.special.ends_text(tokens.back()) || model.tokenizer->is_special(tokens.back())) break;
    text += stream.push(model.tokenizer->token_bytes(tokens.back()));
    if (text.find('\n') != text.npos) break;
  }
  return text.substr(0, text.find('\n'));
}

class Patchscope : public ProbeTest {
 protected:
  Patchscope() { window_ = 256; }

  // A model that knows the names "North a" to "North m" by their last three tokens, and nothing else: its attention
  // and its feed-forward do nothing, and the memory of block 1 or block 3 adds the first letter of the name's word, "n"
  // to "z". first_block: how many of the names block 1 has. Every other text ends at once.
  std::string save_planted(const std::string& name, int first_block) {
    const Tokenizer tokenizer = tiny_tokenizer();
    ModelConfig config = tiny_config(tokenizer);
    config.max_position_embeddings = window_;
    config.num_hidden_layers = 5;
    config.ffn = FfnKind::kDense;
    config.residual = ResidualKind::kPlain;
    config.hc_mult = 1;
    config.engram.layer_ids = {1, 3};
    config.engram.vocab_size = {40009, 40009};  // no two names share a row
    config.engram_gate = config.engram_conv = false;
    TinyModel tiny = tiny_model(config);
    const torch::NoGradGuard no_grad;
    // Columns 0 to 15: letters, one direction each. Column 16: the line feed, which every token brings along.
    const torch::Tensor letters = torch::randn({13, 16});
    const auto id = [&](char c) { return value_or_throw(tokenizer.encode(std::string(1, c))).at(0); };
    for (auto& item : tiny.model->named_parameters()) {
      const auto ends = [&](const char* with) { return item.key().ends_with(with); };
      torch::Tensor weight = item.value();
      if (ends("norm.weight")) weight.fill_(1);
      if (ends("o_proj.weight") || ends("down_proj.weight") || ends("wkv.weight") || ends("lm_head.weight"))
        weight.zero_();
      if (ends("wkv.weight")) weight.narrow(0, 32, 16).narrow(1, 16, 16).copy_(torch::eye(16));  // of the trigram
      if (ends("embed_tokens.weight")) weight.zero_().select(1, 16).fill_(1);
      if (!ends("lm_head.weight")) continue;
      weight[id('\n')][16] = 1;
      for (int i = 0; i < 13; ++i)
        weight[id(static_cast<char>('n' + i))].narrow(0, 0, 16).copy_(letters[i] / letters[i].norm());
    }
    const MemoryHasher hasher = value_or_throw(make_memory_hasher(config, tokenizer));
    for (torch::Tensor& table : tiny.tables) table.zero_();
    for (int i = 0; i < 13; ++i) {
      const auto tokens = value_or_throw(tokenizer.encode("\n" + planted_name(i)));
      const int layer = i < first_block ? 0 : 1;
      const RowIds ids = value_or_throw(hasher.hash(tokens));
      const auto rows = ids.layer(layer, static_cast<int64_t>(tokens.size()) - 1, 1);
      for (int64_t half = 0; half < 2; ++half) {
        tiny.tables[static_cast<size_t>(layer)][rows[static_cast<size_t>(2 + half)]].copy_(
            letters[i].narrow(0, 8 * half, 8) * 20 / letters[i].norm());
      }
    }
    save_tiny(tiny, tokenizer, folder_ / name);
    return folder_ / name;
  }
  static std::string planted_name(int i) { return std::string("North ") + static_cast<char>('a' + i); }
  void write_planted_list() {
    std::string list = "# names\n\n";
    for (int i = 0; i < 13; ++i) list += planted_name(i) + " | " + static_cast<char>('n' + i) + ", zebra \n";
    throw_if_error(write_file_atomic(Env::posix(), folder_ / "names.txt", list));
    options_.entities = folder_ / "names.txt";
    options_.entity = planted_name(12);
  }
};

TEST_F(Patchscope, TextsAreThoseOfWholePasses) {
  window_ = 64;
  const std::string prompt = "France: a country\nx";
  bool differs = false;
  for (const MemoryKind memory : {MemoryKind::kNone, MemoryKind::kEngram, MemoryKind::kOverEncoding}) {
    const LoadedModel model = load("model", memory, 3);
    std::vector<Patch> patches = {{}};
    for (const char* text : {"New York", "Peter the Great", "x"}) {
      const auto states = value_or_throw(last_token_states(model, text));
      ASSERT_EQ(states.size(), 3u);
      EXPECT_EQ(states[0].sizes(), (std::vector<int64_t>{2, 32}));
      for (int block = 0; block < 3; ++block) patches.push_back({block, states[static_cast<size_t>(block)]});
    }
    const auto texts = value_or_throw(patched_texts(model, prompt, patches, 20));
    ASSERT_EQ(texts.size(), patches.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(texts[i], text_by_whole_passes(model, prompt, patches[i], 20)) << "patch " << i;
      differs = differs || texts[i] != texts[0];
    }
    for (const auto& bad : {std::string(60, 'a'), std::string("a")}) {
      EXPECT_NE(patched_texts(model, bad, patches, 20).status().message().find("prompt: got"), std::string::npos);
    }
  }
  EXPECT_TRUE(differs);
}

TEST_F(Patchscope, APatchOfTheOwnStateChangesNothing) {
  window_ = 64;
  const LoadedModel model = load("model", MemoryKind::kEngram);
  const std::string prompt = "France: a country\nx";
  const auto own = value_or_throw(last_token_states(model, prompt));
  std::vector<Patch> patches = {{}};
  for (int block = 0; block < 3; ++block) patches.push_back({block, own[static_cast<size_t>(block)]});
  const auto texts = value_or_throw(patched_texts(model, prompt, patches, 12));
  for (const std::string& text : texts) EXPECT_EQ(text, texts[0]);
}

TEST_F(Patchscope, FindsTheBlockThatResolvesPlantedNames) {
  write_planted_list();
  const auto data = value_or_throw(run("patchscope", {save_planted("planted", 9)}));
  const auto& model = data.at("models").at(0);
  EXPECT_EQ(model.at("testable"), true);
  EXPECT_EQ(model.at("right"), 13);
  EXPECT_EQ(model.at("wrong"), 0);
  for (int i = 0; i < 13; ++i) EXPECT_EQ(model.at("each").at(static_cast<size_t>(i)).at("first"), i < 9 ? 1 : 3) << i;
  EXPECT_EQ(model.at("first").at("median"), 1.0);
  EXPECT_EQ(model.at("first").at("low"), 1.0);
  EXPECT_EQ(model.at("first").at("high"), 3.0);
  EXPECT_EQ(model.at("ever"), 1.0);
  EXPECT_EQ(model.at("last_word").at("ever"), 0.0);
  const auto& shares = model.at("shares");
  const auto values = [&](const char* key) { return shares.at(key).get<std::vector<double>>(); };
  EXPECT_EQ(values("resolved"), (std::vector<double>{0, 9.0 / 13, 9.0 / 13, 1, 1}));
  EXPECT_EQ(values("others"), std::vector<double>(5, 0.0));
  const auto page = value_or_throw(Env::posix().read_file(folder_ / "out/summary.md"));
  EXPECT_NE(page.find("North m: what Engram writes"), std::string::npos) << page;
}

TEST_F(Patchscope, TwoModelsAreComparedInPairs) {
  write_planted_list();
  const auto data = value_or_throw(run("patchscope", {save_planted("late", 0), save_planted("early", 13)}));
  const auto& difference = data.at("difference");
  EXPECT_EQ(difference.at("entities"), 13);
  for (const char* key : {"median", "mean"}) EXPECT_EQ(difference.at(key), -2.0) << key;
  EXPECT_EQ(difference.at("median_interval").at("high"), -2.0);
}

TEST_F(Patchscope, AModelThatCannotDescribeIsNotTestable) {
  write_planted_list();
  const auto data = value_or_throw(run("patchscope", {save("random", MemoryKind::kEngram)}));
  const auto& model = data.at("models").at(0);
  EXPECT_EQ(model.at("testable"), false);
  EXPECT_FALSE(model.contains("first"));
  EXPECT_EQ(model.at("each").size(), 13u);
  const auto page = value_or_throw(Env::posix().read_file(folder_ / "out/summary.md"));
  EXPECT_NE(page.find("Not testable"), std::string::npos);
}

TEST(Resolution, CountsFirstLayersAndBothNulls) {
  const std::vector<KnownEntity> entities = {
      {"A b", {"red"}}, {"C d", {"green"}}, {"E f", {"blue"}}, {"G h", {"white"}}};
  Descriptions texts;
  texts.told = {"a red thing", "green", "Blue and red", "nothing"};
  texts.patched = {{"", "blue", "red", ""}, {"", "", "", ""}, {"blue", "", "blue", ""}, {"white", "", "", ""}};
  texts.last_word = {{"", "", "", "red"}, {"", "", "", ""}, {"", "", "", ""}, {"", "", "", ""}};
  const Ability ability = measure_ability(entities, texts.told);
  EXPECT_EQ(ability.known, (std::vector<bool>{true, true, true, false}));
  EXPECT_EQ(ability.right, 3);
  EXPECT_EQ(ability.wrong, 1);
  EXPECT_EQ(ability.wrong_trials, 12);
  EXPECT_TRUE(ability.testable);
  const Resolution found = resolve(entities, texts, ability.known);
  EXPECT_EQ(found.first, (std::vector<int64_t>{2, 4, 0, 0}));
  EXPECT_EQ(found.first_last_word, (std::vector<int64_t>{3, 4, 4, 4}));
  const double third = 1.0 / 3;
  EXPECT_EQ(found.named, (std::vector<double>{third, 0, 2 * third, 0}));
  EXPECT_EQ(found.resolved, (std::vector<double>{third, third, 2 * third, 2 * third}));
  EXPECT_EQ(found.last_word, (std::vector<double>{0, 0, 0, third}));
  EXPECT_EQ(found.others, (std::vector<double>{0, 1.0 / 6, 1.0 / 6, 1.0 / 6}));
  const Quartiles all = quartiles(found.first, ability.known, 0);
  EXPECT_EQ(all.median, 2.0);
  EXPECT_EQ(all.low, 1.0);
  EXPECT_EQ(all.high, 3.0);
  EXPECT_EQ(all.median_interval.low, 0.0);
  EXPECT_EQ(all.median_interval.high, 4.0);
}

TEST(Resolution, WhatNobodyResolvesIsNoDifference) {
  Resolution a, b;
  a.layers = b.layers = 3;
  a.first = {3, 1, 0};
  b.first = {0, 3, 0};
  const ResolutionChange change = compare_resolutions(a, b, {true, true, false}, 0);
  EXPECT_EQ(change.entities, 2);
  EXPECT_EQ(change.both, 0);
  EXPECT_TRUE(std::isnan(change.mean));
  EXPECT_EQ(change.median, -0.5);
}

TEST(KnownEntities, TheListIsReadAndEachBadLineIsNamed) {
  const auto built_in = value_or_throw(read_known_entities(Env::posix(), ""));
  EXPECT_EQ(built_in.size(), 200u);
  EXPECT_EQ(built_in[0].name, "Diana, Princess of Wales");
  EXPECT_EQ(built_in[0].words, (std::vector<std::string>{"Diana", "Charles", "Spencer", "royal", "princess"}));
  const TemporaryFolder folder;
  const auto why = [&](const std::string& text) {
    throw_if_error(write_file_atomic(Env::posix(), folder / "list", text));
    const auto found = read_known_entities(Env::posix(), folder / "list");
    return found.ok() ? std::string("no error") : found.status().message();
  };
  EXPECT_EQ(why("# c\nA b | red , green\r\n"), "no error");
  EXPECT_NE(why("A b | red\nC d\n").find("list:2: got"), std::string::npos);
  EXPECT_NE(why("A b | red\nA b | blue\n").find("list:2: got"), std::string::npos);
  EXPECT_NE(why("Red Sea | lake, SEA\n").find("list:1: got"), std::string::npos);
  EXPECT_NE(why(" | red\n").find("list:1: got"), std::string::npos);
  EXPECT_NE(why("# nothing\n").find("got no name"), std::string::npos);
}

TEST(KnownEntities, AWordBeginsAWord) {
  EXPECT_TRUE(holds_word("a French composer", {"compose"}));
  EXPECT_TRUE(holds_word("FRENCH", {"french"}));
  EXPECT_FALSE(holds_word("an inventor", {"vent", "tor"}));
  EXPECT_TRUE(holds_word("event, vent", {"vent"}));
  EXPECT_FALSE(holds_word("", {"vent"}));
  EXPECT_EQ(last_word("Diana, Princess of Wales"), "Wales");
  EXPECT_EQ(last_word("Who?!"), "Who");
  EXPECT_EQ(last_word("..."), "");
}

}  // namespace
}  // namespace engram
