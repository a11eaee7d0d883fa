#include "engram/lab/probes/patchscope.h"

#include <algorithm>
#include <array>

#include "engram/core/json.h"
#include "engram/lab/pages/statistics.h"
#include "engram/text/utf8_stream.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kDescriptionTokens = 24;

// Examples in the form of a dictionary, as WordNet and like sources have it; the last word is the placeholder.
constexpr const char* kExamples =
    "Syria: a country in the Middle East\nShakespeare: an English poet and dramatist\n"
    "Nile: the longest river in Africa\n";
constexpr const char* kPlaceholder = "x";

// Things that any English reference text describes, and words one of which a description should hold.
struct Known {
  const char* name;
  std::array<const char*, 4> words;
};
constexpr std::array kKnown = {Known{"France", {"country", "republic", "Europe", "Paris"}},
                               Known{"Paris", {"capital", "city", "France", "Seine"}},
                               Known{"Mozart", {"composer", "Austrian", "music", "opera"}},
                               Known{"Amazon", {"river", "South America", "Brazil", "longest"}},
                               Known{"George Washington", {"president", "President", "general", "American"}},
                               Known{"Japan", {"island", "Asia", "empire", "constitutional"}},
                               Known{"Einstein", {"physicist", "relativity", "German", "theory"}},
                               Known{"Pacific Ocean", {"ocean", "largest", "water", "Asia"}},
                               Known{"oak", {"tree", "wood", "acorn", "genus"}},
                               Known{"horse", {"animal", "hoofed", "mammal", "rider"}},
                               Known{"Mars", {"planet", "god", "war", "sun"}},
                               Known{"Plato", {"philosopher", "Greek", "Athenian", "Socrates"}}};

bool holds(const std::string& text, const Known& known) {
  return std::any_of(known.words.begin(), known.words.end(),
                     [&](const char* word) { return text.find(word) != std::string::npos; });
}

struct Ability {
  int64_t right = 0, wrong = 0, wrong_trials = 0;  // with own words; with those of the other things
  bool testable = false;
  Json descriptions = Json::array();
};

Result<Ability> measure_ability(const LoadedModel& model) {
  Ability out;
  for (const Known& known : kKnown) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string text,
                            describe_with(model, std::string(kExamples) + known.name, -1, {}, kDescriptionTokens));
    out.right += holds(text, known);
    for (const Known& other : kKnown) {
      if (&other == &known) continue;
      out.wrong += holds(text, other);
      ++out.wrong_trials;
    }
    out.descriptions.push_back({{"name", known.name}, {"text", text}});
  }
  const double chance = static_cast<double>(out.wrong) / static_cast<double>(out.wrong_trials);
  out.testable = wilson_interval(out.right, static_cast<int64_t>(kKnown.size())).low > chance;
  return out;
}

}  // namespace

Result<std::vector<torch::Tensor>> last_token_states(const LoadedModel& model, const std::string& text) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, model.tokenizer->encode(text));
  const auto length = static_cast<int64_t>(tokens.size());
  if (length < 1 || length > model.config.max_position_embeddings) {
    return invalid_argument("entity: got {} tokens, wanted 1 to {}", length, model.config.max_position_embeddings);
  }
  torch::InferenceMode inference;
  std::vector<torch::Tensor> states;
  ForwardTrace trace;
  trace.after_block = [&](int, torch::Tensor streams) { states.push_back(streams[0][length - 1].clone()); };
  const Transformer& transformer = model.model;
  transformer->forward(model.prepare_input(tokens, 1, length), &trace);
  return states;
}

Result<std::string> describe_with(const LoadedModel& model, const std::string& prompt, int block,
                                  const torch::Tensor& state_Md, int max_tokens) {
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, model.tokenizer->encode(prompt));
  const auto placeholder = static_cast<int64_t>(tokens.size()) - 1;
  const int64_t room = model.config.max_position_embeddings;
  if (placeholder < 0 || placeholder + 1 + max_tokens > room) {
    return invalid_argument("prompt: got {} tokens, wanted 1 to {}: {} are to follow and the model reads {}",
                            placeholder + 1, room - max_tokens, max_tokens, room);
  }
  torch::InferenceMode inference;
  const Transformer& transformer = model.model;
  ForwardTrace trace;
  if (block >= 0) {
    trace.after_block = [&](int index, torch::Tensor streams) {
      if (index == block) streams[0][placeholder].copy_(state_Md);
    };
  }
  Utf8Stream stream;
  std::string text;
  for (int i = 0; i < max_tokens; ++i) {
    const auto length = static_cast<int64_t>(tokens.size());
    const torch::Tensor hidden = transformer->forward(model.prepare_input(tokens, 1, length), &trace);
    const auto token = static_cast<int32_t>(
        transformer->logits(hidden.narrow(1, length - 1, 1)).reshape({-1}).argmax().item<int64_t>());
    tokens.push_back(token);
    if (model.special.ends_text(token) || model.tokenizer->is_special(token)) break;
    text += stream.push(model.tokenizer->token_bytes(token));
    if (text.find('\n') != std::string::npos) break;
  }
  return text.substr(0, text.find('\n'));
}

Result<ProbeResult> probe_patchscope(const ProbeContext& context) {
  const ProbeOptions& options = context.options;
  const std::string prompt = options.describe.empty() ? std::string(kExamples) + kPlaceholder : options.describe;
  Page page("Patchscope", "In which block is an entity resolved? Its state after each block, described by the model.");
  page.paragraph(
      fmt::format("Entity: {}. Prompt: {}. The state after a block is put after the same block at the "
                  "prompt's last token; greedy, at most {} tokens. {}",
                  quote_text(options.entity, 200), quote_text(prompt, 400), kDescriptionTokens, kLayersCountFromZero));
  Json models = Json::array();
  for (size_t i = 0; i < context.models.size(); ++i) {
    const LoadedModel& model = context.models[i];
    ENGRAM_ASSIGN_OR_RETURN(const Ability ability, measure_ability(model));
    ENGRAM_ASSIGN_OR_RETURN(const auto states, last_token_states(model, options.entity));
    std::vector<std::vector<std::string>> rows;
    Json blocks = Json::array();
    for (size_t block = 0; block < states.size(); ++block) {
      ENGRAM_ASSIGN_OR_RETURN(const std::string text,
                              describe_with(model, prompt, static_cast<int>(block), states[block], kDescriptionTokens));
      rows.push_back({fmt::format("{}", block), text});
      blocks.push_back(text);
    }
    const std::string verdict = fmt::format(
        "{}: {} of {} known things described with one of their words, {} of {} with another thing's. {}",
        context.labels[i], ability.right, kKnown.size(), ability.wrong, ability.wrong_trials,
        ability.testable ? "The model can describe."
                         : "Not testable: the model cannot describe things even when it is told their name.");
    page.paragraph(verdict);
    page.table(fmt::format("What {} writes", context.labels[i]), "", {"layer", "description"}, rows);
    models.push_back({{"label", context.labels[i]},
                      {"testable", ability.testable},
                      {"right", ability.right},
                      {"known", kKnown.size()},
                      {"wrong", ability.wrong},
                      {"wrong_trials", ability.wrong_trials},
                      {"descriptions", ability.descriptions},
                      {"blocks", blocks}});
  }
  return ProbeResult{{{"entity", options.entity}, {"prompt", prompt}, {"models", models}}, std::move(page)};
}

}  // namespace engram
