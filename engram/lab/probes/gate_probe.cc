#include "engram/lab/probes/gate_probe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <nlohmann/json.hpp>

#include "engram/hash/draw.h"
#include "engram/lab/text/entities.h"
#include "engram/lab/text/ngram_rows.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kDraws = 300;
constexpr int64_t kMinCount = 5;
constexpr size_t kNgrams = 24;

std::vector<int64_t> draw(std::vector<int64_t> from, size_t count, NumpyRandom& random) {
  count = std::min(count, from.size());
  draw_to_front(random, from, static_cast<int64_t>(count));
  from.resize(count);
  std::sort(from.begin(), from.end());
  return from;
}

std::vector<double> gates_at(const GateTrace& trace, int layer, int branch, const std::vector<int64_t>& positions) {
  std::vector<double> out;
  for (int64_t position : positions) out.push_back(trace.at(layer, branch, position));
  return out;
}

struct View {
  int layer = 0, branch = 0;
  GateSpread spread;
  GateContrast random, words, matched;
};

std::vector<Page::Piece> coloured(const LoadedModel& model, const View& view, const std::vector<int32_t>& tokens) {
  const GateTrace trace = trace_gates(model, tokens);
  const double span = std::max(1e-9, view.spread.high - view.spread.low);
  std::vector<Page::Piece> out;
  for (const TextPiece& piece : split_pieces(*model.tokenizer, tokens)) {
    const double gate = trace.at(view.layer, view.branch, piece.token);
    out.push_back({piece.text, std::clamp((gate - view.spread.low) / span, 0.0, 1.0), gate});
  }
  return out;
}

Status show_sentences(const LoadedModel& model, const View& view, const ProbeText& text, Page& page) {
  std::vector<std::vector<Page::Piece>> lines;
  for (const auto sentences : {english_gate_sentences(), chinese_gate_sentences()}) {
    for (const char* sentence : sentences) {
      ENGRAM_ASSIGN_OR_RETURN(const auto ids, model.tokenizer->encode(sentence));
      lines.push_back(coloured(model, view, ids));
    }
  }
  const std::string scale = fmt::format("Colour: gate from {} (2nd percentile) to {} (98th).",
                                        fixed_text(view.spread.low, 2), fixed_text(view.spread.high, 2));
  page.coloured_text("The paper's sentences", scale, lines);
  lines.clear();
  const auto piece = static_cast<size_t>(text.piece > 0 ? text.piece : 1);  // an excerpt begins where a window does
  const size_t length = std::min<size_t>({text.tokens.size(), 120, text.piece > 0 ? piece : 120});
  for (size_t i = 0; i < 3; ++i) {
    const size_t at = (text.tokens.size() - length) * i / 2 / piece * piece;
    const auto begin = text.tokens.begin() + static_cast<std::ptrdiff_t>(at);
    lines.push_back(coloured(model, view, {begin, begin + static_cast<std::ptrdiff_t>(length)}));
  }
  page.coloured_text("Held-out text, three excerpts", scale, lines);
  return {};
}

void show_ngrams(const LoadedModel& model, const ProbeText& text, const GateTrace& trace, Page& page, Json& numbers) {
  for (int layer = 0; layer < trace.layers; ++layer) {
    const int block = model.config.engram.layer_ids[static_cast<size_t>(layer)];
    const int order = model.config.engram.max_ngram_size;
    std::vector<std::vector<std::string>> rows;
    Json items = Json::array();
    for (const NgramGate& found :
         highest_gates(*model.tokenizer, text.tokens, trace, layer, order, kMinCount, kNgrams)) {
      rows.push_back({found.text, fmt::format("{}", found.count), fixed_text(found.mean_gate)});
      items.push_back({{"text", found.text}, {"count", found.count}, {"mean_gate", found.mean_gate}});
    }
    page.table(fmt::format("N-grams with the highest gate, {}", layer_name(block)),
               fmt::format("{} tokens, seen at least {} times; mean over branches.", order, kMinCount),
               {"n-gram", "seen", "mean gate"}, rows);
    numbers["ngrams"].push_back({{"layer_id", block}, {"items", items}});
  }
}

void show_contrasts(const LoadedModel& model, const std::vector<View>& views, Page& page, Json& numbers) {
  std::vector<std::vector<std::string>> rows;
  for (const View& view : views) {
    std::vector<std::string> row = {
        fmt::format("layer {}, branch {}", model.config.engram.layer_ids[static_cast<size_t>(view.layer)], view.branch),
        fixed_text(view.spread.mean), fixed_text(view.spread.deviation)};
    Json one = {{"layer", view.layer},
                {"branch", view.branch},
                {"mean", view.spread.mean},
                {"deviation", view.spread.deviation}};
    for (const auto& [name, found] : {std::pair{"random", &view.random}, std::pair{"word_ends", &view.words},
                                      std::pair{"matched_word_ends", &view.matched}}) {
      const Interval precision = wilson_interval(found->top_ends, found->top);
      const double share = static_cast<double>(found->top_ends) / static_cast<double>(found->top);
      row.push_back(fixed_text(found->auc) + " " + interval_text(found->auc_interval.low, found->auc_interval.high));
      row.push_back(fixed_text(share) + " " + interval_text(precision.low, precision.high));
      one[name] = {{"auc", found->auc},
                   {"auc_interval", to_json(found->auc_interval)},
                   {"precision", share},
                   {"precision_interval", to_json(precision)},
                   {"n", found->top}};
    }
    rows.push_back(std::move(row));
    numbers["views"].push_back(std::move(one));
  }
  page.table(
      "Ends of named entities",
      "AUC: probability that an end's gate exceeds the other token's (0.5: no relation). Precision: share of ends "
      "among the highest gates when as many ends as other tokens are ranked (chance 0.5). 95 % intervals: over windows "
      "for AUC; for precision as if tokens were independent, so a little narrow.",
      {"gate", "mean", "spread", "AUC, random tokens", "precision", "AUC, other word ends", "precision",
       "AUC, as frequent word ends", "precision"},
      rows);
}

}  // namespace

GateGroups gate_groups(const TokenBytes& bytes, const std::vector<std::string>& entities,
                       const std::vector<int64_t>& counts, int64_t seed) {
  const std::vector<EntityMatch> matches = find_entities(bytes, entities);
  const std::vector<bool> word_end = word_ends(bytes);
  std::vector<bool> inside(bytes.ends.size(), false);
  GateGroups out;
  for (const EntityMatch& match : matches) {
    out.ends.push_back(match.last_token);
    for (int64_t t = match.first_token; t <= match.last_token; ++t) inside[static_cast<size_t>(t)] = true;
  }
  std::vector<int64_t> others, other_words;
  for (size_t t = 0; t < bytes.ends.size(); ++t) {
    if (inside[t]) continue;
    others.push_back(static_cast<int64_t>(t));
    if (word_end[t]) other_words.push_back(static_cast<int64_t>(t));
  }
  NumpyRandom random(static_cast<uint64_t>(seed));
  out.random = draw(std::move(others), out.ends.size(), random);
  out.word_ends = draw(other_words, out.ends.size(), random);
  std::map<int, std::array<std::vector<int64_t>, 2>> classes;  // ends, other word ends
  const auto class_of = [&](int64_t t) {
    return std::bit_width(static_cast<uint64_t>(counts[static_cast<size_t>(t)]));
  };
  for (const int64_t t : out.ends) classes[class_of(t)][0].push_back(t);
  for (const int64_t t : other_words) classes[class_of(t)][1].push_back(t);
  for (auto& [frequency, sides] : classes) {
    const size_t count = std::min(sides[0].size(), sides[1].size());
    for (int64_t t : draw(std::move(sides[0]), count, random)) out.matched_ends.push_back(t);
    for (int64_t t : draw(std::move(sides[1]), count, random)) out.matched_word_ends.push_back(t);
  }
  return out;
}

GateContrast contrast(const GateTrace& trace, int layer, int branch, const std::vector<int64_t>& ends,
                      const std::vector<int64_t>& others, int64_t window, int64_t seed) {
  const std::vector<double> positive = gates_at(trace, layer, branch, ends);
  const std::vector<double> negative = gates_at(trace, layer, branch, others);
  GateContrast out;
  out.auc = area_under_roc(positive, negative);
  const int64_t windows = (trace.length + window - 1) / window;
  std::vector<std::vector<double>> positive_in(static_cast<size_t>(windows)), negative_in(static_cast<size_t>(windows));
  for (size_t i = 0; i < ends.size(); ++i) positive_in[static_cast<size_t>(ends[i] / window)].push_back(positive[i]);
  for (size_t i = 0; i < others.size(); ++i) {
    negative_in[static_cast<size_t>(others[i] / window)].push_back(negative[i]);
  }
  out.auc_interval =
      bootstrap_intervals(windows, kDraws, static_cast<uint64_t>(seed), [&](std::span<const int64_t> chosen) {
        std::vector<double> up, down;
        for (int64_t w : chosen) {
          const auto& p = positive_in[static_cast<size_t>(w)];
          const auto& n = negative_in[static_cast<size_t>(w)];
          up.insert(up.end(), p.begin(), p.end());
          down.insert(down.end(), n.begin(), n.end());
        }
        return std::vector<double>{area_under_roc(up, down)};
      })[0];
  // Ties are broken against the ends, so that a constant gate finds none of them by luck of the order.
  std::vector<std::pair<double, bool>> ranked;
  for (double gate : positive) ranked.emplace_back(gate, true);
  for (double gate : negative) ranked.emplace_back(gate, false);
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  out.top = static_cast<int64_t>(std::min(positive.size(), ranked.size()));
  for (int64_t i = 0; i < out.top; ++i) out.top_ends += ranked[static_cast<size_t>(i)].second;
  return out;
}

Result<ProbeResult> probe_gates(const ProbeContext& context) {
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel* const model,
                          context.model_with([](const ModelConfig& c) { return c.memory_in_blocks(); },
                                             "no Engram layer in a block, so it has no gates"));
  ENGRAM_ASSIGN_OR_RETURN(ProbeText text, context.read_whole_text());
  const auto bigrams = [&] {
    return ngram_keys(model->hasher.map(), text.tokens, text.document_starts, 2, model->config.engram);
  };
  const NgramCounts seen = count_ngrams(bigrams());
  const int64_t window = context.window();
  spread(text, context.options.max_tokens, window);
  std::vector<int64_t> counts;  // 0: the first token of a window
  for (const uint64_t key : bigrams()) {
    const int64_t found = seen.find(key);
    counts.push_back(found < 0 ? 0 : seen.counts[static_cast<size_t>(found)]);
  }
  ENGRAM_ASSIGN_OR_RETURN(const auto entities, read_entities(context.env, context.options.entities));
  const GateGroups groups =
      gate_groups(token_bytes_of(*model->tokenizer, text.tokens), entities, counts, context.options.seed);
  if (groups.ends.size() < 20 || groups.word_ends.size() < 20) {
    return invalid_argument(
        "{}: got {} names of the list in {} tokens, wanted at least 20: give more text "
        "(max_tokens) or more names (entities)",
        text.path, groups.ends.size(), text.tokens.size());
  }
  const GateTrace trace = trace_gates(*model, text.tokens, window);
  std::vector<View> views;
  for (int layer = 0; layer < trace.layers; ++layer) {
    for (int branch = 0; branch < trace.branches; ++branch) {
      const auto against = [&](const std::vector<int64_t>& ends, const std::vector<int64_t>& others) {
        return contrast(trace, layer, branch, ends, others, window, context.options.seed);
      };
      views.push_back({layer, branch, gate_spread(trace, layer, branch), against(groups.ends, groups.random),
                       against(groups.ends, groups.word_ends), against(groups.matched_ends, groups.matched_word_ends)});
    }
  }
  const View& clearest = *std::max_element(views.begin(), views.end(),
                                           [](const View& a, const View& b) { return a.words.auc < b.words.auc; });

  Page page("Gates", "Does the gate fire at the end of names and fixed phrases?");
  page.paragraph(fmt::format(
      "{} tokens of {}, in windows of {} spread over the text; {} ends of named entities, {} other tokens, {} other "
      "word "
      "ends; {} pairs of an end and a word end whose bigrams are as frequent in the text, by powers of two.",
      text.tokens.size(), text.path, window, groups.ends.size(), groups.random.size(), groups.word_ends.size(),
      groups.matched_ends.size()));
  Json numbers = {{"text", text.path},          {"tokens", text.tokens.size()},          {"window", window},
                  {"ends", groups.ends.size()}, {"matched", groups.matched_ends.size()}, {"views", Json::array()},
                  {"ngrams", Json::array()}};
  show_contrasts(*model, views, page, numbers);
  page.paragraph(fmt::format(
      "Coloured below: {}, branch {}, the one of {} gates with the highest AUC against "
      "other word ends (chosen after looking).",
      layer_name(model->config.engram.layer_ids[static_cast<size_t>(clearest.layer)]), clearest.branch, views.size()));
  ENGRAM_RETURN_IF_ERROR(show_sentences(*model, clearest, text, page));
  show_ngrams(*model, text, trace, page, numbers);
  return ProbeResult{std::move(numbers), std::move(page)};
}

}  // namespace engram
