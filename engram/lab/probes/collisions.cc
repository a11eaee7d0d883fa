#include "engram/lab/probes/collisions.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <unordered_map>

#include "engram/core/json.h"
#include "engram/core/progress.h"
#include "engram/lab/text/ngram_rows.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kDraws = 500;
constexpr int64_t kTrainTokens = int64_t{1} << 24;  // 16.8M: 1.3 GB of keys and rows at eight rows per token
constexpr size_t kExamples = 10;

// One order of one layer over the training text: every distinct n-gram's rows.
struct OrderRows {
  const NgramCounts* counts = nullptr;
  int order = 0, layer = 0, heads = 0;
  std::vector<int64_t> rows;  // [ngrams, heads]
};

struct Training {
  ProbeText text;
  std::vector<NgramCounts> counts;            // [orders], from order 2
  std::vector<std::vector<int64_t>> traffic;  // [layers][rows]
  std::vector<OrderRows> orders;              // [layers * orders]
};

// One order, of every layer: the text is hashed once for all of them.
std::vector<OrderRows> rows_of_order(const LoadedModel& model, const Training& training, int order) {
  const NgramCounts& counts = training.counts[static_cast<size_t>(order - 2)];
  const int heads = model.config.engram.n_heads;
  const auto width = static_cast<size_t>(heads), first = static_cast<size_t>(model.config.engram.slot(order));
  std::vector<OrderRows> out;
  for (int layer = 0; layer < model.hasher.num_layers(); ++layer)
    out.push_back({&counts, order, layer, heads, std::vector<int64_t>(counts.keys.size() * width)});
  std::unordered_map<int64_t, size_t> wanted;  // position of the first occurrence -> n-gram
  for (size_t g = 0; g < counts.keys.size(); ++g) wanted.emplace(counts.positions[g], g);
  throw_if_error(model.hasher.hash_text(
      training.text.tokens, training.text.document_starts, [&](int64_t begin, const RowIds& row_ids) {
        for (int64_t t = 0; t < row_ids.num_tokens(); ++t) {
          const auto found = wanted.find(begin + t);
          if (found == wanted.end()) continue;
          for (OrderRows& rows : out) {
            const auto from = row_ids.layer(rows.layer, t, 1).subspan(first, width);
            std::ranges::copy(from, rows.rows.begin() + static_cast<ptrdiff_t>(found->second * width));
          }
        }
      }));
  return out;
}

// What one order of one layer's n-grams share.
struct OrderSharing {
  int order = 0, layer = 0;
  int64_t ngrams = 0;               // distinct, in the training text
  int64_t rows = 0, used_rows = 0;  // of all heads of the order
  double ngrams_per_row = 0;        // distinct n-grams per used row
  double minority = 0;  // share of tokens whose n-gram has less than half of its row's traffic, mean of heads
  int64_t twins = 0;    // n-grams that share the rows of every head with another one
};

OrderSharing sharing_of(const OrderRows& order, const std::vector<int64_t>& traffic, int64_t rows) {
  const auto heads = static_cast<size_t>(order.heads);
  OrderSharing out;
  out.order = order.order;
  out.layer = order.layer;
  out.ngrams = static_cast<int64_t>(order.counts->keys.size());
  out.rows = rows;
  std::vector<int64_t> used(order.rows);
  std::sort(used.begin(), used.end());
  out.used_rows = std::unique(used.begin(), used.end()) - used.begin();
  out.ngrams_per_row = static_cast<double>(out.ngrams * order.heads) / static_cast<double>(out.used_rows);
  std::map<std::vector<int64_t>, int64_t> tuples;
  double tokens = 0;
  for (size_t g = 0; g < order.counts->keys.size(); ++g) {
    const auto count = static_cast<double>(order.counts->counts[g]);
    tokens += count;
    const int64_t* first = order.rows.data() + g * heads;
    for (size_t k = 0; k < heads; ++k) {
      if (2 * order.counts->counts[g] < traffic[static_cast<size_t>(first[k])]) {
        out.minority += count / static_cast<double>(heads);
      }
    }
    ++tuples[std::vector<int64_t>(first, first + heads)];
  }
  out.minority /= tokens;
  for (const auto& [tuple, count] : tuples) {
    if (count > 1) out.twins += count;
  }
  return out;
}

// Of one n-gram, mean of heads: its part of its rows' traffic, and log2 of how many times its own that traffic is.
struct RowShare {
  double own = 0, dilution = 0;
};
RowShare row_share(const OrderRows& order, size_t ngram, const std::vector<int64_t>& traffic) {
  const auto heads = static_cast<size_t>(order.heads);
  RowShare out;
  for (size_t k = 0; k < heads; ++k) {
    const double share = static_cast<double>(order.counts->counts[ngram]) /
                         static_cast<double>(traffic[static_cast<size_t>(order.rows[ngram * heads + k])]);
    out.own += share / order.heads;
    out.dilution -= std::log2(share) / order.heads;
  }
  return out;
}

std::string ngram_text(const LoadedModel& model, const ProbeText& text, int64_t position, int order) {
  const int64_t begin = std::max<int64_t>(0, position - order + 1);
  const auto ids =
      std::span(text.tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(position + 1 - begin));
  const auto decoded = model.tokenizer->decode(ids);
  return decoded.ok() ? quote_text(*decoded, 40) : std::string("?");
}

// The n-grams seen often whose rows are most drowned by others, each with the strongest other one of its first head.
void show_examples(const LoadedModel& model, const Training& training, const OrderRows& order, Page& page,
                   Json& numbers) {
  const auto& traffic = training.traffic[static_cast<size_t>(order.layer)];
  const auto heads = static_cast<size_t>(order.heads);
  std::vector<std::pair<double, size_t>> worst;
  for (size_t g = 0; g < order.counts->keys.size(); ++g) {
    if (order.counts->counts[g] >= 20) worst.emplace_back(row_share(order, g, traffic).own, g);
  }
  std::sort(worst.begin(), worst.end());
  if (worst.size() > kExamples) worst.resize(kExamples);
  std::unordered_map<int64_t, size_t> strongest;  // row of head 0 -> its most frequent n-gram
  for (size_t g = 0; g < order.counts->keys.size(); ++g) {
    const auto [found, fresh] = strongest.emplace(order.rows[g * heads], g);
    if (!fresh && order.counts->counts[g] > order.counts->counts[found->second]) found->second = g;
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& [share, g] : worst) {
    const size_t other = strongest.at(order.rows[g * heads]);
    const std::string text = ngram_text(model, training.text, order.counts->positions[g], order.order);
    const std::string mate = ngram_text(model, training.text, order.counts->positions[other], order.order);
    rows.push_back({text, fmt::format("{}", order.counts->counts[g]), fixed_text(share), mate,
                    fmt::format("{}", order.counts->counts[other])});
    numbers["examples"].push_back({{"ngram", text},
                                   {"count", order.counts->counts[g]},
                                   {"own_share", share},
                                   {"mate", mate},
                                   {"mate_count", order.counts->counts[other]}});
  }
  page.table(
      "Frequent n-grams that others drown",
      fmt::format("Order {}, first memory layer, at least 20 occurrences; the strongest n-gram of the first head's "
                  "row beside them.",
                  order.order),
      {"n-gram", "seen", "own share of its rows", "strongest in that row", "seen"}, rows);
}

Result<Training> read_training(const ProbeContext& context, const LoadedModel& model) {
  std::string path = context.options.train_text;
  if (path.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(path, text_of_recipe(context.env, model, TextRole::kTraining));
  }
  Training out;
  ENGRAM_ASSIGN_OR_RETURN(out.text, read_probe_text(context.env, path, *model.tokenizer));
  shorten(out.text, kTrainTokens);
  const EngramConfig& engram = model.config.engram;
  Progress progress("collisions", model.config.num_memory_layers() * (engram.max_ngram_size - 1), "orders");
  for (int order = 2; order <= engram.max_ngram_size; ++order) {
    out.counts.push_back(
        count_ngrams(ngram_keys(model.hasher.map(), out.text.tokens, out.text.document_starts, order, engram)));
  }
  out.traffic = row_traffic(model.hasher, out.text.tokens, out.text.document_starts);
  const int orders = engram.max_ngram_size - 1, layers = model.config.num_memory_layers();
  out.orders.resize(static_cast<size_t>(layers * orders));
  for (int order = 2; order <= engram.max_ngram_size; ++order) {
    for (OrderRows& rows : rows_of_order(model, out, order))
      out.orders[static_cast<size_t>(rows.layer * orders + order - 2)] = std::move(rows);
    progress.advance(layers);
  }
  return out;
}

// What the regression reads, one entry per predicted token of the held-out text.
struct Positions {
  std::vector<std::vector<double>> x;  // [n][2 * orders] dilution of each order, then log counts
  std::vector<int64_t> bins, cluster;
  std::vector<std::vector<int64_t>> counts;  // [orders][n]
};

Positions describe_positions(const LoadedModel& model, const Training& training, const ProbeText& text) {
  const int orders = model.config.engram.max_ngram_size - 1, layers = model.config.num_memory_layers();
  const int64_t predicted = static_cast<int64_t>(text.tokens.size()) - 1;
  const int64_t window = model.config.max_position_embeddings;
  Positions out;
  out.x.assign(static_cast<size_t>(predicted), std::vector<double>(static_cast<size_t>(2 * orders), 0.0));
  out.bins.assign(static_cast<size_t>(predicted), 0);
  out.counts.assign(static_cast<size_t>(orders), std::vector<int64_t>(static_cast<size_t>(predicted), 0));
  for (int64_t t = 0; t < predicted; ++t) out.cluster.push_back(t / window);
  // N-grams begin anew at each window, as the model reads them.
  std::vector<int64_t> starts = text.document_starts;
  for (int64_t t = 0; t < predicted; t += window) starts.push_back(t);
  std::sort(starts.begin(), starts.end());
  starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
  for (int order = 2; order <= orders + 1; ++order) {
    const auto o = static_cast<size_t>(order - 2);
    const auto keys = ngram_keys(model.hasher.map(), text.tokens, starts, order, model.config.engram);
    for (size_t t = 0; t < static_cast<size_t>(predicted); ++t) {
      const int64_t ngram = training.counts[o].find(keys[t]);
      const int64_t count = ngram < 0 ? 0 : training.counts[o].counts[static_cast<size_t>(ngram)];
      out.counts[o][t] = count;
      out.bins[t] = out.bins[t] * 1000 + count_bin(count);
      out.x[t][static_cast<size_t>(orders) + o] = std::log(static_cast<double>(count) + 1);
      for (int layer = 0; layer < layers && ngram >= 0; ++layer) {
        const OrderRows& rows = training.orders[static_cast<size_t>(layer * orders) + o];
        const auto& traffic = training.traffic[static_cast<size_t>(layer)];
        out.x[t][o] += row_share(rows, static_cast<size_t>(ngram), traffic).dilution / layers;
      }
    }
  }
  return out;
}

// Mean loss of positions below and above their bin's median dilution, by the count of the longest n-gram.
void show_bins(const Positions& positions, const std::vector<double>& loss, size_t order, Page& page) {
  std::map<int64_t, std::vector<size_t>> bins;
  for (size_t t = 0; t < loss.size(); ++t) {
    if (positions.counts[order][t] > 0) bins[count_bin(positions.counts[order][t])].push_back(t);
  }
  std::map<int64_t, std::array<std::vector<double>, 2>> octaves;
  for (auto& [bin, members] : bins) {
    std::stable_sort(members.begin(), members.end(),
                     [&](size_t a, size_t b) { return positions.x[a][order] < positions.x[b][order]; });
    for (size_t i = 0; i < members.size(); ++i) {
      const auto octave = static_cast<int64_t>(std::log2(static_cast<double>(positions.counts[order][members[i]])));
      octaves[octave][2 * i < members.size() ? 0 : 1].push_back(loss[members[i]]);
    }
  }
  std::vector<Series> series = {{"less shared half", {}, {}, {}, {}}, {"more shared half", {}, {}, {}, {}}};
  for (const auto& [octave, halves] : octaves) {
    if (halves[0].size() < 100) continue;
    for (size_t half = 0; half < 2; ++half) {
      const Estimate mean = estimate(halves[half]);
      series[half].x.push_back(static_cast<double>(octave));
      series[half].y.push_back(mean.mean);
      series[half].low.push_back(mean.mean - 1.96 * mean.error);
      series[half].high.push_back(mean.mean + 1.96 * mean.error);
    }
  }
  page.lines("Loss by frequency, shared rows against own rows",
             "Held-out positions by the training count of their longest n-gram, halved by dilution within each bin of "
             "equal counts. Frequent n-grams are few, and a bin's halves are then different phrases: the regression "
             "below resamples windows and is the answer.",
             "log2 of the n-gram's count", "nats per token", series);
}

void show_sharing(const LoadedModel& model, const Training& training, Page& page, Json& numbers) {
  const EngramConfig& engram = model.config.engram;
  // Heads lie one after another, so an order's rows end where the next order's begin.
  const EngramLayout layout = value_or_throw(EngramLayout::create(engram, model.hasher.map()));
  std::vector<std::vector<std::string>> rows;
  for (const OrderRows& order : training.orders) {
    int64_t table = 0;
    for (int head = 0; head < order.heads; ++head)
      table += layout.primes(order.layer)[static_cast<size_t>(engram.slot(order.order, head))];
    const OrderSharing sharing = sharing_of(order, training.traffic[static_cast<size_t>(order.layer)], table);
    rows.push_back({fmt::format("layer {}, order {}", engram.layer_ids[static_cast<size_t>(order.layer)], order.order),
                    fmt::format("{}", sharing.ngrams), fmt::format("{}", sharing.rows),
                    fmt::format("{}", sharing.used_rows), fixed_text(sharing.ngrams_per_row, 2),
                    fixed_text(100 * sharing.minority, 1) + " %", fmt::format("{}", sharing.twins)});
    numbers["sharing"].push_back({{"layer", order.layer},
                                  {"order", order.order},
                                  {"ngrams", sharing.ngrams},
                                  {"rows", sharing.rows},
                                  {"used_rows", sharing.used_rows},
                                  {"ngrams_per_row", sharing.ngrams_per_row},
                                  {"minority", sharing.minority},
                                  {"twins", sharing.twins}});
  }
  page.table("What is shared",
             "In the minority: tokens whose n-gram has less than half of its row's traffic. Twins: "
             "n-grams that share all heads' rows with another one, so that no head tells them apart.",
             {"", "n-grams", "rows", "rows used", "n-grams per row", "tokens in the minority", "twins"}, rows);
}

void show_slopes(const Positions& positions, const std::vector<double>& on, const std::vector<double>& off,
                 int64_t seed, Page& page, Json& numbers) {
  std::vector<double> difference(on.size());
  for (size_t t = 0; t < on.size(); ++t) difference[t] = off[t] - on[t];
  const std::vector<double>& gain = difference;
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, y] : {std::pair{"loss", &on}, std::pair{"loss without memory (control)", &off},
                                std::pair{"gain from the memory", &gain}}) {
    const Slopes slopes = slopes_within_bins(positions.x, *y, positions.bins, positions.cluster, seed);
    for (size_t o = 0; o < positions.counts.size(); ++o) {
      const Interval interval = slopes.intervals[o];
      const char* verdict = interval.low > 0 ? "rises" : interval.high < 0 ? "falls" : "no effect seen";
      rows.push_back({fmt::format("{}, order {}", name, o + 2), fixed_text(slopes.values[o]),
                      interval_text(interval.low, interval.high), fixed_text(slopes.variation[o]), verdict});
      numbers["slopes"].push_back({{"outcome", name},
                                   {"order", o + 2},
                                   {"slope", slopes.values[o]},
                                   {"interval", to_json(interval)},
                                   {"variation", slopes.variation[o]}});
    }
  }
  page.table("Does it hurt?",
             "Change in nats per token for every doubling of the traffic in a position's rows (dilution), at equal "
             "counts of the n-grams of all orders. The loss without memory should not move: where it does, the bins "
             "are too coarse. 95 % bootstrap intervals over windows.",
             {"outcome", "slope", "95 % interval", "spread of the dilution within bins", ""}, rows);
}

std::vector<double> doubles(const std::vector<float>& values) { return {values.begin(), values.end()}; }

}  // namespace

int64_t count_bin(int64_t count) {
  if (count <= 32) return count;
  return 32 + static_cast<int64_t>(std::ceil(8 * (std::log2(static_cast<double>(count)) - 5)));
}

Slopes slopes_within_bins(const std::vector<std::vector<double>>& x, const std::vector<double>& y,
                          const std::vector<int64_t>& bins, const std::vector<int64_t>& cluster, int64_t seed) {
  const auto n = static_cast<int64_t>(y.size()), k = static_cast<int64_t>(x.at(0).size());
  torch::Tensor X = torch::empty({n, k + 1}, torch::kDouble);  // the last column is y
  auto cells = X.accessor<double, 2>();
  std::unordered_map<int64_t, int64_t> index_of;
  std::vector<int64_t> bin_of(y.size());
  for (int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    for (int64_t j = 0; j < k; ++j) cells[i][j] = x[at][static_cast<size_t>(j)];
    cells[i][k] = y[at];
    bin_of[at] = index_of.emplace(bins[at], static_cast<int64_t>(index_of.size())).first->second;
  }
  const torch::Tensor bin = torch::tensor(bin_of, torch::kLong);
  const auto groups = static_cast<int64_t>(index_of.size());
  const torch::Tensor sizes =
      torch::zeros({groups}, torch::kDouble).index_add_(0, bin, torch::ones({n}, torch::kDouble));
  const torch::Tensor means = torch::zeros({groups, k + 1}, torch::kDouble).index_add_(0, bin, X) / sizes.unsqueeze(1);
  X -= means.index_select(0, bin);

  // Sums of products per cluster; a draw adds up those of the clusters it holds.
  const int64_t clusters = *std::max_element(cluster.begin(), cluster.end()) + 1;
  const torch::Tensor products = (X.unsqueeze(2) * X.unsqueeze(1)).reshape({n, (k + 1) * (k + 1)});
  const torch::Tensor sums = torch::zeros({clusters, (k + 1) * (k + 1)}, torch::kDouble)
                                 .index_add_(0, torch::tensor(cluster, torch::kLong), products);
  const auto solve = [&](std::span<const int64_t> chosen) {
    const torch::Tensor rows = torch::tensor(std::vector<int64_t>(chosen.begin(), chosen.end()), torch::kLong);
    const torch::Tensor total = sums.index_select(0, rows).sum(0).reshape({k + 1, k + 1});
    // The pseudo-inverse gives 0 for a column without variation.
    const torch::Tensor slopes = torch::linalg_pinv(total.narrow(0, 0, k).narrow(1, 0, k), 1e-10, /*hermitian=*/true)
                                     .matmul(total.narrow(0, 0, k).select(1, k));
    return std::vector<double>(slopes.const_data_ptr<double>(), slopes.const_data_ptr<double>() + k);
  };
  std::vector<int64_t> all(static_cast<size_t>(clusters));
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
  Slopes out;
  out.values = solve(all);
  out.intervals = bootstrap_intervals(clusters, kDraws, static_cast<uint64_t>(seed), solve);
  const torch::Tensor squares = X.square().mean(0).sqrt();
  for (int64_t j = 0; j < k; ++j) out.variation.push_back(squares[j].item<double>());
  return out;
}

Result<ProbeResult> probe_collisions(const ProbeContext& context) {
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel* const found,
                          context.model_with([](const ModelConfig& c) { return c.memory != MemoryKind::kNone; },
                                             "no memory, so nothing collides"));
  const LoadedModel& model = *found;
  ENGRAM_ASSIGN_OR_RETURN(const ProbeText text, context.read_text());
  ENGRAM_ASSIGN_OR_RETURN(const Training training, read_training(context, model));
  const int orders = model.config.engram.max_ngram_size - 1;

  Page page("Collisions", "Which n-grams share rows of the table, and does sharing hurt?");
  page.paragraph(fmt::format("Rows as the {} tokens of {} use them; loss on {} tokens of {}.",
                             training.text.tokens.size(), training.text.path, text.tokens.size(), text.path));
  Json numbers = {
      {"text", text.path},        {"train_text", training.text.path}, {"train_tokens", training.text.tokens.size()},
      {"sharing", Json::array()}, {"examples", Json::array()},        {"slopes", Json::array()}};
  show_sharing(model, training, page, numbers);
  show_examples(model, training, training.orders[static_cast<size_t>(orders - 1)], page, numbers);

  const Positions positions = describe_positions(model, training, text);
  const std::vector<double> on = doubles(token_losses(model, text, false));
  const std::vector<double> off = doubles(token_losses(model, text, true));
  show_bins(positions, on, static_cast<size_t>(orders - 1), page);
  show_slopes(positions, on, off, context.options.seed, page, numbers);
  return ProbeResult{std::move(numbers), std::move(page)};
}

}  // namespace engram
