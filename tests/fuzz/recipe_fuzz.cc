// A hostile recipe: text up to the first NUL, then --set overrides, one per NUL-terminated piece. What parses must
// write itself in a form that reads back to the same bytes, and its model must be refused or counted.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engram/model/parameters.h"
#include "engram/train/recipe.h"

namespace {

using engram::Recipe;

void check_model(const Recipe& recipe) {
  engram::ModelConfig model = recipe.model;
  if (model.vocab_size == 0) model.vocab_size = 300;
  if (model.engram.compressed_vocab_size == 0) model.engram.compressed_vocab_size = 200;
  if (model.engram.pad_token_id < 0) model.engram.pad_token_id = 0;
  if (!model.validate().ok()) return;
  // Prime searches over huge or many tables take long by nature: they are the layout's own tests.
  model.memory = engram::MemoryKind::kNone;
  const auto count = engram::count_parameters(model);
  if (!count.ok()) return;
  ENGRAM_CHECK(count->p_act <= count->p_tot && count->p_sparse >= 0, "P_act {} P_tot {}", count->p_act, count->p_tot);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  const std::string text(input.substr(0, end));
  std::vector<std::string> overrides;
  for (size_t at = end; at < input.size();) {
    const size_t begin = at + 1;
    at = input.find('\0', begin);
    overrides.emplace_back(input.substr(begin, at == std::string_view::npos ? at : at - begin));
  }
  const auto recipe = Recipe::parse(text, "fuzz.toml", overrides);
  if (!recipe.ok()) {
    ENGRAM_CHECK(recipe.status().message().find('\n') == std::string::npos, "message of two lines: {}",
                 recipe.status().message());
    return 0;
  }
  const std::string resolved = recipe->to_toml();
  const auto again = Recipe::parse(resolved, "resolved.toml", {});
  ENGRAM_CHECK(again.ok(), "does not read back: {}\n{}", again.status().message(), resolved);
  ENGRAM_CHECK(again->to_toml() == resolved, "reads back as another recipe:\n{}\n{}", resolved, again->to_toml());
  ENGRAM_CHECK(recipe->differences(*again).empty(), "differs from its own resolved form: {}", resolved);
  check_model(*recipe);
  return 0;
}
