#include "engram/lab/probes/patchscope.h"

#include <algorithm>

#include "engram/core/json.h"
#include "engram/lab/probes/patched_text.h"
#include "engram/lab/text/score.h"
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

// The placeholder is the prompt's last word.
std::string without_placeholder(const std::string& prompt) {
  return prompt.substr(0, static_cast<size_t>(last_word(prompt).data() - prompt.data()));
}

// The last word as it stands in the name, with what parts it from the word before.
std::string last_word_in_place(const std::string& name) {
  const auto begin = static_cast<size_t>(last_word(name).data() - name.data());
  return name.substr(begin > 0 && name[begin - 1] == ' ' ? begin - 1 : begin);
}

struct Asked {
  Ability ability;
  Descriptions texts;
  Resolution resolution;  // of a testable model
};

Result<Asked> ask(const ProbeContext& context, const LoadedModel& model, const std::string& prompt,
                  const std::vector<KnownEntity>& entities) {
  Asked out;
  ENGRAM_ASSIGN_OR_RETURN(out.texts.told, describe_by_name(context.env, model, prompt, entities));
  out.ability = measure_ability(entities, out.texts.told);
  if (!out.ability.testable) return out;
  std::vector<std::string> names, last_words;
  for (const KnownEntity& entity : entities) {
    names.push_back(entity.name);
    last_words.push_back(last_word_in_place(entity.name));
  }
  ENGRAM_ASSIGN_OR_RETURN(out.texts.patched, describe_by_state(model, prompt, names));
  ENGRAM_ASSIGN_OR_RETURN(out.texts.last_word, describe_by_state(model, prompt, last_words));
  out.resolution = resolve(entities, out.texts, out.ability.known);
  return out;
}

std::string layer_text(double layer, int64_t layers) {
  return layer >= static_cast<double>(layers) ? "never" : fixed_text(layer, layer == std::floor(layer) ? 0 : 1);
}

std::string share_text(double share) { return fmt::format("{:.0f} %", 100 * share); }

Json quartiles_json(const Quartiles& found) {
  return {{"low", found.low},
          {"median", found.median},
          {"high", found.high},
          {"median_interval", to_json(found.median_interval)}};
}

std::vector<std::string> summary_row(const std::string& label, const Quartiles& found, double ever, int64_t layers) {
  return {label, share_text(ever), layer_text(found.median, layers),
          fmt::format("[{}, {}]", layer_text(found.median_interval.low, layers),
                      layer_text(found.median_interval.high, layers)),
          fmt::format("{} to {}", layer_text(found.low, layers), layer_text(found.high, layers))};
}

Series share_series(const std::string& label, const std::vector<double>& shares, int64_t entities) {
  Series out{label, {}, shares, {}, {}};
  for (size_t l = 0; l < shares.size(); ++l) {
    out.x.push_back(static_cast<double>(l));
    if (entities == 0) continue;
    const Interval interval = wilson_interval(std::llround(shares[l] * static_cast<double>(entities)), entities);
    out.low.push_back(interval.low);
    out.high.push_back(interval.high);
  }
  return out;
}

// What all models' pages share.
struct Tables {
  std::vector<std::vector<std::string>> summary, layers;
  std::vector<Series> curves;
};

// One model's numbers, and its part of the tables.
Json show(const std::string& label, const std::vector<KnownEntity>& entities, const Asked& asked, int64_t seed,
          Tables& tables, Page& page) {
  const auto& [ability, texts, found] = asked;
  page.paragraph(fmt::format(
      "{}: told the name, it describes {} of {} entities with one of their key words, {} of {} with those of another "
      "one. {}",
      label, ability.right, entities.size(), ability.wrong, ability.wrong_trials,
      ability.testable ? "These are the entities that count below."
                       : "Not testable: the model cannot describe things even when it is told their name."));
  Json out = {{"label", label},         {"testable", ability.testable},
              {"right", ability.right}, {"entities", entities.size()},
              {"wrong", ability.wrong}, {"wrong_trials", ability.wrong_trials}};
  Json each = Json::array();
  for (size_t e = 0; e < entities.size(); ++e) {
    Json one = {{"name", entities[e].name}, {"told", texts.told[e]}, {"known", static_cast<bool>(ability.known[e])}};
    if (ability.testable) {
      one["first"] = found.first[e] < found.layers ? Json(found.first[e]) : Json();
      one["patched"] = texts.patched[e];
    }
    each.push_back(std::move(one));
  }
  if (!ability.testable) {
    out["each"] = std::move(each);
    return out;
  }
  const Quartiles own = quartiles(found.first, ability.known, seed);
  const Quartiles alone = quartiles(found.first_last_word, ability.known, seed);
  out["layers"] = found.layers;
  out["ever"] = found.resolved.back();
  out["first"] = quartiles_json(own);
  out["last_word"] = {{"ever", found.last_word.back()}, {"first", quartiles_json(alone)}};
  out["shares"] = {
      {"named", found.named}, {"resolved", found.resolved}, {"others", found.others}, {"last_word", found.last_word}};
  out["each"] = std::move(each);

  tables.summary.push_back(summary_row(label, own, found.resolved.back(), found.layers));
  tables.summary.push_back(summary_row(label + ", last word alone", alone, found.last_word.back(), found.layers));
  tables.summary.push_back({label + ", another's words", share_text(found.others.back()), "-", "-", "-"});
  for (size_t l = 0; l < found.named.size(); ++l) {
    tables.layers.push_back({fmt::format("{}, layer {}", label, l), share_text(found.named[l]),
                             share_text(found.resolved[l]), share_text(found.last_word[l]),
                             share_text(found.others[l])});
  }
  tables.curves.push_back(share_series(label, found.resolved, ability.right));
  tables.curves.push_back(share_series(label + ", last word alone", found.last_word, 0));
  tables.curves.push_back(share_series(label + ", another's words", found.others, 0));
  return out;
}

Json show_change(const ProbeContext& context, const Asked& first, const Asked& second, Page& page) {
  std::vector<bool> both;
  for (size_t e = 0; e < first.ability.known.size(); ++e)
    both.push_back(first.ability.known[e] && second.ability.known[e]);
  if (std::ranges::find(both, true) == both.end()) return nullptr;
  const ResolutionChange change = compare_resolutions(first.resolution, second.resolution, both, context.options.seed);
  page.paragraph(fmt::format(
      "{} minus {}, over the {} entities that both describe: median layer {} {}; mean over the {} that both resolve {} "
      "{}. Below zero: the second model resolves earlier. Brackets: 95 %, bootstrap over entities, paired.",
      context.labels[1], context.labels[0], change.entities, fixed_text(change.median, 1),
      interval_text(change.median_interval.low, change.median_interval.high, 1), change.both,
      fixed_text(change.mean, 2), interval_text(change.mean_interval.low, change.mean_interval.high, 2)));
  return {{"entities", change.entities}, {"both", change.both},
          {"median", change.median},     {"median_interval", to_json(change.median_interval)},
          {"mean", change.mean},         {"mean_interval", to_json(change.mean_interval)}};
}

// A row for each entity that one model at least describes: where each resolves it, and what it writes there.
void show_entities(const ProbeContext& context, const std::vector<KnownEntity>& entities,
                   const std::vector<Asked>& asked, Page& page) {
  std::vector<std::vector<std::string>> rows;
  for (size_t e = 0; e < entities.size(); ++e) {
    if (std::ranges::none_of(asked, [&](const Asked& one) { return one.ability.testable && one.ability.known[e]; }))
      continue;
    rows.push_back({entities[e].name});
    for (const Asked& one : asked) {
      if (!one.ability.testable) continue;
      const int64_t at = one.resolution.first[e];
      const bool never = at == one.resolution.layers;
      rows.back().push_back(layer_text(static_cast<double>(at), one.resolution.layers));
      rows.back().push_back(never ? "" : one.texts.patched[e][static_cast<size_t>(at)]);
    }
  }
  if (rows.empty()) return;
  std::vector<std::string> header = {"entity"};
  for (size_t i = 0; i < asked.size(); ++i) {
    if (!asked[i].ability.testable) continue;
    header.push_back(fmt::format("layer, {}", context.labels[i]));
    header.push_back("description there");
  }
  page.table("Each entity", "The layer at which it is resolved.", header, rows);
}

}  // namespace

Result<std::vector<std::string>> describe_by_name(Env& env, const LoadedModel& model, const std::string& prompt,
                                                  const std::vector<KnownEntity>& entities) {
  std::vector<GreedyPrompt> prompts;
  for (const KnownEntity& entity : entities) {
    ENGRAM_ASSIGN_OR_RETURN(auto tokens, model.tokenizer->encode(without_placeholder(prompt) + entity.name));
    const auto length = static_cast<int64_t>(tokens.size());
    const int64_t room = model.config.max_position_embeddings - kDescriptionTokens;
    if (length > room) {
      return invalid_argument(
          "prompt: got {} tokens with {}, wanted at most {}: {} are to follow and the model reads {}", length,
          quote_text(entity.name), room, kDescriptionTokens, model.config.max_position_embeddings);
    }
    prompts.push_back({std::move(tokens), kDescriptionTokens});
  }
  ENGRAM_ASSIGN_OR_RETURN(std::vector<std::string> texts, greedy_texts(env, model, prompts));
  for (std::string& text : texts) text = Utf8Stream().push(text.substr(0, text.find('\n')));
  return texts;
}

Result<LayerTexts> describe_by_state(const LoadedModel& model, const std::string& prompt,
                                     const std::vector<std::string>& texts) {
  std::vector<Patch> patches;
  for (const std::string& text : texts) {
    ENGRAM_ASSIGN_OR_RETURN(const auto states, last_token_states(model, "\n" + text));
    for (size_t block = 0; block < states.size(); ++block) patches.push_back({static_cast<int>(block), states[block]});
  }
  Progress progress("patchscope", std::ssize(patches), "descriptions");
  ENGRAM_ASSIGN_OR_RETURN(std::vector<std::string> written,
                          patched_texts(model, prompt, patches, kDescriptionTokens, &progress));
  LayerTexts out(texts.size());
  for (size_t i = 0; i < written.size(); ++i) {
    out[i / (patches.size() / texts.size())].push_back(std::move(written[i]));
  }
  return out;
}

Result<ProbeResult> probe_patchscope(const ProbeContext& context) {
  const ProbeOptions& options = context.options;
  const std::string prompt = options.describe.empty() ? std::string(kExamples) + kPlaceholder : options.describe;
  ENGRAM_ASSIGN_OR_RETURN(const auto entities, read_known_entities(context.env, options.entities));
  Page page("Patchscope", "In which block is an entity resolved? Its state after each block, described by the model.");
  page.paragraph(fmt::format(
      "Prompt: {}. The state of a name's last token after a block is put after the same block at the prompt's last "
      "token; greedy, at most {} tokens. A text names an entity when it holds one of its key words; an entity is "
      "resolved at the first layer that names it. {}",
      quote_text(prompt, 400), kDescriptionTokens, kLayersCountFromZero));
  std::vector<Asked> asked;
  Json models = Json::array();
  Tables tables;
  for (size_t i = 0; i < context.models.size(); ++i) {
    ENGRAM_ASSIGN_OR_RETURN(Asked one, ask(context, context.models[i], prompt, entities));
    asked.push_back(std::move(one));
    models.push_back(show(context.labels[i], entities, asked.back(), options.seed, tables, page));
  }
  Json numbers = {{"prompt", prompt}, {"entity", options.entity}, {"models", std::move(models)}};
  if (asked.size() == 2 && asked[0].ability.testable && asked[1].ability.testable)
    numbers["difference"] = show_change(context, asked[0], asked[1], page);
  if (!tables.summary.empty()) {
    page.lines("Resolved so far", "Bars: 95 % (Wilson). Nulls: key words of another entity; the last word alone.",
               "layer", "share of the entities", tables.curves);
    page.table("Where entities are resolved", "Never: behind the last layer. Brackets: 95 %, bootstrap over entities.",
               {"model", "ever", "median layer", "95 % interval", "quartiles"}, tables.summary);
  }
  for (size_t i = 0; i < asked.size(); ++i) {
    if (!asked[i].ability.testable) continue;
    ENGRAM_ASSIGN_OR_RETURN(const auto texts, describe_by_state(context.models[i], prompt, {options.entity}));
    std::vector<std::vector<std::string>> rows;
    for (size_t l = 0; l < texts[0].size(); ++l) rows.push_back({fmt::format("{}", l), texts[0][l]});
    page.table(fmt::format("{}: what {} writes", options.entity, context.labels[i]), "", {"layer", "description"},
               rows);
  }
  if (!tables.layers.empty()) {
    page.table("Each layer", "",
               {"model, layer", "named here", "resolved so far", "last word alone so far", "another's words so far"},
               tables.layers);
  }
  show_entities(context, entities, asked, page);
  return ProbeResult{std::move(numbers), std::move(page)};
}

}  // namespace engram
