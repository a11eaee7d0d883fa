#include "engram/lab/probes/long_ppl.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "engram/core/progress.h"
#include "engram/lab/pages/statistics.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;
using Losses = std::vector<std::vector<float>>;
using Keys = std::vector<std::vector<bool>>;

constexpr float kKeyGain = 2, kKeyLoss = 2;  // nats; alpha and -beta of the paper
constexpr int64_t kDraws = 1000;

// Losses [count, length] of `count` stretches of the text, each read on its own.
torch::Tensor stretch_losses(const LoadedModel& model, const ProbeText& text, std::span<const int64_t> starts,
                             int64_t length) {
  std::vector<int32_t> tokens, targets;
  for (const int64_t start : starts) {
    const auto from = text.tokens.begin() + start;
    tokens.insert(tokens.end(), from, from + length);
    targets.insert(targets.end(), from + 1, from + length + 1);
  }
  const auto count = static_cast<int64_t>(starts.size());
  const Transformer& transformer = model.model;
  const torch::Tensor logits = transformer->logits(transformer->forward(model.prepare_input(tokens, count, length)));
  const torch::Tensor wanted = torch::tensor(targets, torch::kInt64).view({count, length});
  return target_nats(logits, wanted).to(torch::kCPU, torch::kFloat).contiguous();
}

// Mean loss of the chosen tokens of some windows; not a number where there are none.
double mean_loss(const Losses& losses, const Keys* keys, std::span<const int64_t> windows) {
  double sum = 0;
  int64_t count = 0;
  for (const int64_t window : windows) {
    const auto w = static_cast<size_t>(window);
    for (size_t i = 0; i < losses[w].size(); ++i) {
      if (keys != nullptr && !(*keys)[w][i]) continue;
      sum += losses[w][i];
      ++count;
    }
  }
  return count == 0 ? std::nan("") : sum / static_cast<double>(count);
}

int64_t count_keys(const Keys& keys) {
  int64_t count = 0;
  for (const auto& window : keys) count += std::count(window.begin(), window.end(), true);
  return count;
}

// A mean loss, and how far it moves when windows are drawn anew.
struct Spread {
  double mean = 0;
  Interval interval;
};
template <typename Statistic>
Spread spread_of(int64_t count, uint64_t seed, Statistic&& statistic) {
  std::vector<int64_t> all(static_cast<size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  const auto drawn = bootstrap_intervals(
      count, kDraws, seed, [&](std::span<const int64_t> windows) { return std::vector<double>{statistic(windows)}; });
  return {statistic(std::span<const int64_t>(all)), drawn[0]};
}

Json to_json(const Spread& spread) { return {{"mean", spread.mean}, {"interval", to_json(spread.interval)}}; }

std::string perplexity_text(const Spread& spread) {
  return fmt::format("{} {}", fixed_text(std::exp(spread.mean), 2),
                     interval_text(std::exp(spread.interval.low), std::exp(spread.interval.high), 2));
}

std::string nats_text(const Spread& spread) {
  return fmt::format("{} {}", fixed_text(spread.mean), interval_text(spread.interval.low, spread.interval.high));
}

}  // namespace

std::vector<int64_t> windows_inside_documents(const ProbeText& text, int64_t length) {
  std::vector<int64_t> starts;
  for (size_t i = 0; i < text.document_starts.size(); ++i) {
    const bool last = i + 1 == text.document_starts.size();
    const int64_t end = last ? static_cast<int64_t>(text.tokens.size()) : text.document_starts[i + 1];
    for (int64_t start = text.document_starts[i]; start + length < end; start += length) starts.push_back(start);
  }
  return starts;
}

LongShortLosses long_short_losses(const LoadedModel& model, const ProbeText& text, std::span<const int64_t> starts,
                                  int64_t length, int64_t short_context) {
  torch::InferenceMode inference;
  LongShortLosses out;
  const int64_t step = short_context / 4, pieces = (length - short_context) / step, kept = pieces * step;
  for (const int64_t start : starts) {
    const torch::Tensor whole = stretch_losses(model, text, std::span(&start, 1), length);
    const float* from = whole.const_data_ptr<float>() + short_context;
    out.with_long.emplace_back(from, from + kept);
    out.with_short.emplace_back();
    std::vector<int64_t> inner;
    for (int64_t piece = 0; piece < pieces; ++piece) inner.push_back(start + piece * step);
    const torch::Tensor ends =
        stretch_losses(model, text, inner, short_context + step).slice(1, short_context).contiguous();
    out.with_short.back().assign(ends.const_data_ptr<float>(), ends.const_data_ptr<float>() + kept);
  }
  return out;
}

std::vector<std::vector<bool>> key_tokens(const LongShortLosses& judge) {
  Keys keys;
  for (size_t w = 0; w < judge.with_long.size(); ++w) {
    const auto &with_long = judge.with_long[w], &with_short = judge.with_short[w];
    keys.emplace_back(with_long.size());
    for (size_t i = 0; i < with_long.size(); ++i)
      keys[w][i] = with_long[i] < kKeyLoss && with_short[i] - with_long[i] > kKeyGain;
  }
  return keys;
}

Result<ProbeResult> probe_long_ppl(const ProbeContext& context) {
  const int64_t length = context.context_length();
  const int64_t short_context = context.options.short_context > 0 ? context.options.short_context : length / 8;
  if (short_context < 4 || short_context + short_context / 4 > length)
    return invalid_argument("short_context: got {} tokens, wanted 4 to four fifths of the models' {}", short_context,
                            length);
  ENGRAM_ASSIGN_OR_RETURN(const ProbeText text, context.read_text());
  const std::vector<int64_t> starts = windows_inside_documents(text, length);
  if (starts.empty())
    return invalid_argument("{}: no document has more than {} tokens, the models' context", text.path, length);

  const auto seed = static_cast<uint64_t>(context.options.seed);
  std::vector<LongShortLosses> losses;
  std::vector<Keys> keys;
  Progress progress("long-ppl", static_cast<int64_t>(starts.size() * context.models.size()), "windows");
  for (const LoadedModel& model : context.models) {
    LongShortLosses of_model;
    for (const int64_t start : starts) {
      LongShortLosses one = long_short_losses(model, text, std::span(&start, 1), length, short_context);
      of_model.with_long.push_back(std::move(one.with_long[0]));
      of_model.with_short.push_back(std::move(one.with_short[0]));
      progress.advance(1);
    }
    keys.push_back(key_tokens(of_model));
    losses.push_back(std::move(of_model));
  }
  progress.finish();

  const size_t models = context.models.size();
  const auto count = static_cast<int64_t>(starts.size());
  const int64_t tokens = count * static_cast<int64_t>(losses[0].with_long[0].size());
  Json numbers = {{"text", text.path},        {"context", length}, {"short_context", short_context},
                  {"windows", starts.size()}, {"tokens", tokens},  {"models", Json::array()}};
  std::vector<std::string> header = {"model", "perplexity, whole context", "short context"};
  for (const std::string& judge : context.labels) header.push_back(fmt::format("LongPPL, keys of {}", judge));
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < models; ++i) {
    const auto of_all = [&](const Losses& all) {
      return spread_of(count, seed, [&](auto windows) { return mean_loss(all, nullptr, windows); });
    };
    const Spread with_long = of_all(losses[i].with_long), with_short = of_all(losses[i].with_short);
    Json model = {{"label", context.labels[i]},
                  {"loss_long", to_json(with_long)},
                  {"loss_short", to_json(with_short)},
                  {"keys", count_keys(keys[i])},
                  {"loss_keys", Json::array()}};
    std::vector<std::string> row = {context.labels[i], perplexity_text(with_long), perplexity_text(with_short)};
    for (const Keys& of_judge : keys) {
      const Spread loss =
          spread_of(count, seed, [&](auto windows) { return mean_loss(losses[i].with_long, &of_judge, windows); });
      model["loss_keys"].push_back(to_json(loss));
      row.push_back(perplexity_text(loss));
    }
    numbers["models"].push_back(std::move(model));
    rows.push_back(std::move(row));
  }

  Page page("LongPPL",
            "The perplexity of the tokens that a long context helps to predict (Fang et al. 2025, arXiv 2410.23771).");
  page.paragraph(
      fmt::format("{}: {} windows of {} tokens inside documents, {} predicted tokens with {} or more before "
                  "them. A key token of a model: its loss is below {} nats, and more than {} nats below its "
                  "loss with {} to {} tokens of context. In brackets: 95 % of a bootstrap over windows.",
                  text.path, starts.size(), length, tokens, short_context, kKeyLoss, kKeyGain, short_context,
                  short_context + short_context / 4));
  for (size_t i = 0; i < models; ++i)
    page.paragraph(fmt::format("{}: {} key tokens, {:.2f} % of all.", context.labels[i], count_keys(keys[i]),
                               100.0 * static_cast<double>(count_keys(keys[i])) / static_cast<double>(tokens)));
  page.table("Perplexities", "", header, rows);
  if (models == 2) {
    const auto difference = [&](const Keys* chosen) {
      return spread_of(count, seed, [&](auto windows) {
        return mean_loss(losses[1].with_long, chosen, windows) - mean_loss(losses[0].with_long, chosen, windows);
      });
    };
    rows.clear();
    Json differences = Json::array();
    const auto add = [&](const std::string& which, const Keys* chosen) {
      const Spread change = difference(chosen);
      differences.push_back({{"tokens", which}, {"nats", to_json(change)}});
      rows.push_back({which, nats_text(change)});
    };
    add("all tokens", nullptr);
    for (size_t i = 0; i < models; ++i) add(fmt::format("keys of {}", context.labels[i]), &keys[i]);
    page.table(fmt::format("{} minus {}", context.labels[1], context.labels[0]),
               "Loss with the whole context, in nats, on the same tokens. Below zero: the second model is better.",
               {"tokens", "difference"}, rows);
    numbers["difference"] = std::move(differences);
  }
  return ProbeResult{std::move(numbers), std::move(page)};
}

}  // namespace engram
