#include "engram/lab/probes/alignment.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>

#include "engram/hash/draw.h"
#include "engram/model/windows.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxEntities = 4096;
constexpr int64_t kDraws = 1000;

torch::Tensor gram_matrices(const std::vector<torch::Tensor>& states, int64_t begin, int64_t count) {
  std::vector<torch::Tensor> grams;
  for (const torch::Tensor& block : states) {
    const torch::Tensor rows = block.narrow(0, begin, count).to(torch::kDouble);
    grams.push_back(rows.matmul(rows.t()).fill_diagonal_(0));
  }
  return torch::stack(grams);
}

// Draws `count` of the matches without replacement, in random order, so that a mini-batch mixes documents.
std::vector<int64_t> draw_positions(const std::vector<EntityMatch>& matches, int64_t count, int64_t seed) {
  std::vector<int64_t> positions;
  for (const EntityMatch& match : matches) positions.push_back(match.last_token);
  NumpyRandom random(static_cast<uint64_t>(seed));
  draw_to_front(random, positions, count);
  positions.resize(static_cast<size_t>(count));
  return positions;
}

struct Alignment {
  std::vector<std::vector<double>> similarity;
  std::vector<double> index;
  std::vector<Interval> intervals;
  // Of each column: the most similar layer, and by how much it is more similar than the layer of the same number.
  std::vector<size_t> nearest;
  std::vector<double> lead;
  std::vector<Interval> lead_intervals;
};

Alignment align(const std::vector<torch::Tensor>& a, const std::vector<torch::Tensor>& b, int64_t seed) {
  const AlignmentBatches batches = align_batches(a, b, kAlignmentBatch);
  const auto count = static_cast<int64_t>(batches.cross.size());
  std::vector<int64_t> all(static_cast<size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  Alignment out;
  out.similarity = similarity(batches, all);
  out.index = soft_index(out.similarity);
  const size_t rows = out.similarity.size(), columns = out.index.size();
  for (size_t j = 0; j < columns; ++j) {
    size_t best = 0;
    for (size_t i = 1; i < rows; ++i) best = out.similarity[i][j] > out.similarity[best][j] ? i : best;
    out.nearest.push_back(best);
  }
  const auto leads = [&](const std::vector<std::vector<double>>& found) {
    std::vector<double> lead;
    for (size_t j = 0; j < columns; ++j) lead.push_back(found[out.nearest[j]][j] - found[std::min(j, rows - 1)][j]);
    return lead;
  };
  out.lead = leads(out.similarity);
  out.intervals = bootstrap_intervals(count, kDraws, static_cast<uint64_t>(seed), [&](std::span<const int64_t> chosen) {
    const auto drawn = similarity(batches, chosen);
    std::vector<double> values = soft_index(drawn);
    std::ranges::copy(leads(drawn), std::back_inserter(values));
    return values;
  });
  out.lead_intervals.assign(out.intervals.begin() + static_cast<std::ptrdiff_t>(columns), out.intervals.end());
  out.intervals.resize(columns);
  return out;
}

// Rows of the map are the first model's blocks, columns the second's.
void show(Page& page, Json& numbers, const Alignment& found, const std::string& first, const std::string& second) {
  Series curve{fmt::format("soft alignment index of {}", second), {}, found.index, {}, {}};
  std::vector<std::vector<std::string>> rows;
  Json intervals = Json::array(), lead_intervals = Json::array();
  for (size_t j = 0; j < found.index.size(); ++j) {
    const Interval interval = found.intervals[j];
    curve.x.push_back(static_cast<double>(j));
    curve.low.push_back(interval.low);
    curve.high.push_back(interval.high);
    rows.push_back(
        {fmt::format("{}", j), fixed_text(found.index[j], 2), interval_text(interval.low, interval.high, 2),
         fmt::format("{}", found.nearest[j]), fixed_text(found.similarity[found.nearest[j]][j]),
         fixed_text(found.lead[j]) + " " + interval_text(found.lead_intervals[j].low, found.lead_intervals[j].high)});
    intervals.push_back(to_json(interval));
    lead_intervals.push_back(to_json(found.lead_intervals[j]));
  }
  page.heatmap(fmt::format("{} against {}", second, first), "Colour: CKA. Line: soft alignment index, 95 % intervals.",
               fmt::format("layer of {}", second), fmt::format("layer of {}", first), found.similarity, curve);
  page.table(fmt::format("Soft alignment index of {} in layers of {}", second, first),
             "Lead: how much more alike the nearest layer is than the layer of the same number.",
             {"layer", "index", "95 % interval", "nearest layer", "its CKA", "lead"}, rows);
  numbers["alignments"].push_back({{"first", first},
                                   {"second", second},
                                   {"similarity", found.similarity},
                                   {"soft_index", found.index},
                                   {"intervals", intervals},
                                   {"nearest", found.nearest},
                                   {"lead", found.lead},
                                   {"lead_intervals", lead_intervals}});
}

}  // namespace

torch::Tensor unbiased_hsic(const torch::Tensor& grams_K, const torch::Tensor& grams_L) {
  const int64_t a = grams_K.size(0), b = grams_L.size(0), n = grams_K.size(1);
  TORCH_CHECK(n >= 4, "unbiased HSIC: got ", n, " samples, wanted at least 4");
  const auto size = static_cast<double>(n);
  const torch::Tensor trace = grams_K.reshape({a, n * n}).matmul(grams_L.reshape({b, n * n}).t());  // tr(KL), symmetric
  const torch::Tensor rows_K = grams_K.sum(2), rows_L = grams_L.sum(2);
  const torch::Tensor sums = torch::outer(rows_K.sum(1), rows_L.sum(1)) / ((size - 1) * (size - 2));
  const torch::Tensor mixed = rows_K.matmul(rows_L.t()) * (2 / (size - 2));
  return (trace + sums - mixed) / (size * (size - 3));
}

AlignmentBatches align_batches(const std::vector<torch::Tensor>& states_a, const std::vector<torch::Tensor>& states_b,
                               int64_t batch) {
  torch::InferenceMode inference;
  AlignmentBatches out;
  for (int64_t begin = 0; begin + batch <= states_a.at(0).size(0); begin += batch) {
    const torch::Tensor K = gram_matrices(states_a, begin, batch), L = gram_matrices(states_b, begin, batch);
    out.cross.push_back(unbiased_hsic(K, L));
    out.first.push_back(unbiased_hsic(K, K).diagonal().contiguous());
    out.second.push_back(unbiased_hsic(L, L).diagonal().contiguous());
  }
  TORCH_CHECK(!out.cross.empty(), "alignment: got ", states_a.at(0).size(0), " samples, wanted at least ", batch);
  return out;
}

std::vector<std::vector<double>> similarity(const AlignmentBatches& batches, std::span<const int64_t> chosen) {
  torch::Tensor cross = torch::zeros_like(batches.cross[0]);
  torch::Tensor first = torch::zeros_like(batches.first[0]), second = torch::zeros_like(batches.second[0]);
  for (int64_t index : chosen) {
    const auto m = static_cast<size_t>(index);
    cross += batches.cross[m];
    first += batches.first[m];
    second += batches.second[m];
  }
  std::vector<std::vector<double>> out(static_cast<size_t>(cross.size(0)));
  const auto values = cross.accessor<double, 2>();
  const auto diagonal_a = first.accessor<double, 1>(), diagonal_b = second.accessor<double, 1>();
  for (int64_t i = 0; i < cross.size(0); ++i) {
    for (int64_t j = 0; j < cross.size(1); ++j) {
      const double scale = std::sqrt(std::max(0.0, diagonal_a[i]) * std::max(0.0, diagonal_b[j]));
      out[static_cast<size_t>(i)].push_back(scale > 0 ? values[i][j] / scale : 0.0);
    }
  }
  return out;
}

std::vector<double> soft_index(const std::vector<std::vector<double>>& similarity) {
  std::vector<double> out;
  for (size_t j = 0; j < similarity.at(0).size(); ++j) {
    std::vector<std::pair<double, double>> column;  // similarity, layer
    for (size_t i = 0; i < similarity.size(); ++i) {
      column.emplace_back(std::max(0.0, similarity[i][j]), static_cast<double>(i));
    }
    std::stable_sort(column.begin(), column.end(), [](const auto& x, const auto& y) { return x.first > y.first; });
    if (column.size() > kAlignmentTop) column.resize(kAlignmentTop);
    double weighted = 0, sum = 0;
    for (const auto& [value, block] : column) {
      weighted += value * block;
      sum += value;
    }
    out.push_back(sum > 0 ? weighted / sum : std::nan(""));
  }
  return out;
}

std::vector<torch::Tensor> states_at(const LoadedModel& model, const ProbeText& text,
                                     const std::vector<int64_t>& positions, int64_t window) {
  torch::InferenceMode inference;
  const auto blocks = static_cast<size_t>(model.config.num_hidden_layers);
  const int64_t d = model.config.hidden_size;
  std::vector<size_t> order(positions.size());  // by place in the text
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return positions[a] < positions[b]; });
  std::vector<torch::Tensor> states;
  for (size_t block = 0; block < blocks; ++block) {
    states.push_back(torch::zeros({static_cast<int64_t>(positions.size()), d}, torch::kDouble));
  }
  const Transformer& transformer = model.model;
  size_t next = 0;
  for_each_window(text.tokens, text.document_starts, window, windows_per_batch(model.config, window),
                  [&](const WindowBatch& batch) {
                    const int64_t end = batch.begin + batch.count * batch.length;
                    if (next == order.size()) return false;
                    if (positions[order[next]] >= end) return true;
                    ForwardTrace trace;
                    trace.want_block_outputs = true;
                    transformer->forward(model.prepare_input(batch.tokens, batch.count, batch.length, batch.starts),
                                         &trace);
                    for (; next < order.size() && positions[order[next]] < end; ++next) {
                      const int64_t at = positions[order[next]] - batch.begin;
                      for (size_t block = 0; block < blocks; ++block) {
                        states[block][static_cast<int64_t>(order[next])].copy_(
                            trace.block_outputs[block][at / batch.length][at % batch.length]);
                      }
                    }
                    return true;
                  });
  return states;
}

Result<ProbeResult> probe_alignment(const ProbeContext& context) {
  ENGRAM_ASSIGN_OR_RETURN(const ProbeText text, context.read_windows());
  ENGRAM_ASSIGN_OR_RETURN(const auto entities, read_entities(context.env, context.options.entities));
  std::vector<EntityMatch> matches = find_entities(token_bytes_of(*context.models[0].tokenizer, text.tokens), entities);
  // The text's last token is predicted but never read.
  std::erase_if(matches, [&](const EntityMatch& match) {
    return match.last_token + 1 >= static_cast<int64_t>(text.tokens.size());
  });
  const int64_t found = static_cast<int64_t>(matches.size());
  const int64_t used = std::min(found, kMaxEntities) / kAlignmentBatch * kAlignmentBatch;
  if (used < 2 * kAlignmentBatch) {
    return invalid_argument(
        "{}: got {} names of the list in {} tokens, wanted at least {}: give more text (max_tokens) "
        "or more names (entities)",
        text.path, found, text.tokens.size(), 2 * kAlignmentBatch);
  }
  const auto positions = draw_positions(matches, used, context.options.seed);
  std::vector<std::vector<torch::Tensor>> states;
  for (const LoadedModel& model : context.models) {
    states.push_back(states_at(model, text, positions, context.window()));
  }
  Page page("Alignment of blocks (CKA)",
            "Centred kernel alignment of states at the last token of named entities: unbiased HSIC over mini-batches.");
  page.paragraph(fmt::format(
      "{} entity ends of {} found in {} tokens of {}, in windows of {} spread over the text; {} mini-batches "
      "of {}. {}",
      used, found, text.tokens.size(), text.path, context.window(), used / kAlignmentBatch, kAlignmentBatch,
      kLayersCountFromZero));
  const int blocks = context.models[0].config.num_hidden_layers;
  if (blocks <= static_cast<int>(kAlignmentTop)) {
    page.paragraph(
        fmt::format("The first model has {} blocks, so the {} most similar are all of them: the soft index "
                    "is then drawn to the middle and says little about depth.",
                    blocks, kAlignmentTop));
  }
  Json numbers = {{"text", text.path},     {"tokens", text.tokens.size()}, {"entities_found", found},
                  {"entities_used", used}, {"batch", kAlignmentBatch},     {"alignments", Json::array()}};
  const std::string& first = context.labels[0];
  if (states.size() == 2) {
    show(page, numbers, align(states[0], states[1], context.options.seed), first, context.labels[1]);
    if (context.null) {
      page.paragraph(fmt::format("The null: a model that differs from {} by its seed only.", first));
      const auto null = states_at(*context.null, text, positions, context.window());
      show(page, numbers, align(states[0], null, context.options.seed), first, kNullLabel);
    }
    page.paragraph(fmt::format("What the index would be if nothing had changed: {} against itself.", first));
  }
  show(page, numbers, align(states[0], states[0], context.options.seed), first, first);
  return ProbeResult{std::move(numbers), std::move(page)};
}

}  // namespace engram
