#include "engram/lab/probes/edit.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/optim/adam.h>

#include <algorithm>
#include <array>
#include <unordered_set>

#include "engram/core/json.h"
#include "engram/lab/text/score.h"
#include "engram/model/memory/served_tables.h"
#include "engram/model/windows.h"
#include "engram/store/rowfile/row_file.h"
#include "engram/store/tiers/overlay_store.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kStepShare = 0.1;      // Adam's step, as a share of the rows' root mean square
constexpr size_t kOccurrences = 200;    // of the n-gram in held-out text, at most
constexpr int64_t kContextTokens = 64;  // in front of an occurrence

// Every occurrence of the n-gram's canonical tokens: positions of its last token.
std::vector<int64_t> occurrences(const LoadedModel& model, const NgramRowIds& rows, const ProbeText& text) {
  const auto canonical = model.hasher.map().ids();
  const auto same = [&](int32_t a, int32_t b) {
    return canonical[static_cast<size_t>(a)] == canonical[static_cast<size_t>(b)];
  };
  std::vector<int64_t> out;
  const auto order = static_cast<size_t>(rows.order);
  for (size_t t = order - 1; t + 1 < text.tokens.size() && out.size() < kOccurrences; ++t) {
    if (std::equal(rows.tokens.begin(), rows.tokens.end(),
                   text.tokens.begin() + static_cast<std::ptrdiff_t>(t + 1 - order), same)) {
      out.push_back(static_cast<int64_t>(t));
    }
  }
  return out;
}

Result<std::vector<int32_t>> encode(const LoadedModel& model, const std::string& text, const char* field) {
  Result<std::vector<int32_t>> ids = model.tokenizer->encode(text);
  if (!ids.ok()) return ids.status().with_context(field);
  return ids;
}

// Log-likelihood per token of the target behind each context.
Result<std::vector<double>> target_scores(const LoadedModel& model, const std::vector<Continuation>& continuations) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<Score> scores, score_continuations(model, continuations));
  std::vector<double> out;
  for (const Score& score : scores) out.push_back(score.log_likelihood / static_cast<double>(score.tokens));
  return out;
}

std::vector<double> difference(const std::vector<double>& after, const std::vector<double>& before) {
  std::vector<double> out;
  for (size_t i = 0; i < after.size(); ++i) out.push_back(after[i] - before[i]);
  return out;
}

struct Effect {
  std::vector<double> alone, in_text;  // before
  std::vector<double> alone_after, in_text_after;
};

void show_effect(const Effect& effect, const std::string& target, Page& page, Json& numbers) {
  std::vector<std::vector<std::string>> rows;
  const auto add = [&](const char* name, const std::vector<double>& before, const std::vector<double>& after) {
    if (before.empty()) return;
    const Estimate was = estimate(before), is = estimate(after), change = estimate(difference(after, before));
    rows.push_back({name, fmt::format("{}", was.count), with_error(was.mean, was.error), with_error(is.mean, is.error),
                    with_error(change.mean, change.error)});
    numbers["effect"].push_back(
        {{"where", name}, {"before", to_json(was)}, {"after", to_json(is)}, {"change", to_json(change)}});
  };
  add("behind the n-gram alone", effect.alone, effect.alone_after);
  add("behind its occurrences in the text", effect.in_text, effect.in_text_after);
  page.table("The target",
             fmt::format("Log-likelihood of {} in nats per token; +- is one standard error.", quote_text(target)),
             {"where", "places", "before", "after", "change"}, rows);
}

void show_locality(const EditedPositions& positions, Page& page, Json& numbers) {
  const std::array names = {"the n-gram itself", "another n-gram that shares a row", "later in such a window",
                            "nothing edited was read"};
  std::vector<std::vector<std::string>> rows;
  for (size_t tie = 0; tie < names.size(); ++tie) {
    std::vector<double> values;
    for (size_t t = 0; t < positions.tie.size(); ++t) {
      if (positions.tie[t] == static_cast<Tie>(tie)) values.push_back(positions.divergence[t]);
    }
    const Estimate mean = estimate(values);
    const double largest = values.empty() ? 0 : *std::max_element(values.begin(), values.end());
    rows.push_back({names[tie], fmt::format("{}", values.size()),
                    values.empty() ? "-" : with_error(mean.mean, mean.error, 5),
                    values.empty() ? "-" : fixed_text(largest, 4)});
    numbers["locality"].push_back({{"where", names[tie]}, {"divergence", to_json(mean)}, {"largest", largest}});
  }
  page.table("What else changed", "KL(before || after) at every position of the held-out text, in nats.",
             {"position", "count", "mean KL", "largest KL"}, rows);
}

// The edited rows as an overlay of a row file, which a server reads for those who ask for it.
Status save_overlay(Env& env, const ProbeOptions& options, const LoadedModel& model, const NgramRowIds& rows,
                    const std::vector<torch::Tensor>& values, Page& page, Json& numbers) {
  ENGRAM_ASSIGN_OR_RETURN(const RowFileReader table, RowFileReader::open(env, options.table));
  ENGRAM_RETURN_IF_ERROR(
      check_row_file(table.info(), model, model.config.engram.layer_ids).with_context(options.table));
  Overlay overlay{options.save_overlay, {}};
  int64_t count = 0, bytes = 0;
  for (size_t layer = 0; layer < rows.row_ids.size(); ++layer) {
    const int layer_id = model.config.engram.layer_ids[layer];
    const std::vector<int64_t>& ids = rows.row_ids[layer];  // they ascend: heads' rows lie one behind the other
    const torch::Tensor edited = values[layer].contiguous();
    ENGRAM_RETURN_IF_ERROR(add_values(table, layer_id, ids,
                                      {edited.const_data_ptr<float>(), static_cast<size_t>(edited.numel())}, overlay));
    count += std::ssize(ids);
    bytes += std::ssize(overlay.layers.back().rows);
  }
  ENGRAM_RETURN_IF_ERROR(overlay.save(env, table.info()));
  numbers["overlay"] = {{"path", options.save_overlay}, {"table", options.table}, {"rows", count}, {"bytes", bytes}};
  page.paragraph(
      fmt::format("{} has the {} edited rows, {} bytes, for the table {}. A server can read it for the "
                  "requests that name it (docs/serving.md).",
                  options.save_overlay, count, bytes, options.table));
  return {};
}

}  // namespace

Result<NgramRowIds> rows_of_ngram(const LoadedModel& model, const std::vector<int32_t>& tokens) {
  if (tokens.size() < 2) return invalid_argument("n-gram: got {} token(s), wanted at least 2", tokens.size());
  NgramRowIds out;
  out.order = std::min(static_cast<int>(tokens.size()), model.config.engram.max_ngram_size);
  out.tokens.assign(tokens.end() - out.order, tokens.end());
  const RowIds ids = value_or_throw(model.hasher.hash(out.tokens));
  const auto heads = static_cast<size_t>(model.config.engram.n_heads);
  const auto first = static_cast<size_t>(model.config.engram.slot(out.order));
  for (int layer = 0; layer < ids.num_layers(); ++layer) {
    const auto rows = ids.layer(layer, out.order - 1, 1).subspan(first, heads);
    out.row_ids.emplace_back(rows.begin(), rows.end());
  }
  return out;
}

std::vector<torch::Tensor> train_rows(const LoadedModel& model, const NgramRowIds& rows,
                                      const std::vector<int32_t>& context, const std::vector<int32_t>& target,
                                      int64_t steps) {
  std::vector<int32_t> tokens = context;
  tokens.insert(tokens.end(), target.begin(), target.end());
  const auto length = static_cast<int64_t>(tokens.size()) - 1;
  const std::vector<int32_t> read(tokens.begin(), tokens.end() - 1);
  ForwardInput input = model.prepare_input(read, 1, length);
  std::vector<int64_t> targets(static_cast<size_t>(length), -1);
  for (size_t i = 0; i < target.size(); ++i) targets[context.size() - 1 + i] = target[i];
  const torch::Tensor wanted = torch::tensor(targets, torch::kLong).unsqueeze(0);

  // The edited rows become parameters; where the sequence reads them, they take the stored ones' place.
  const auto heads = static_cast<int64_t>(rows.row_ids[0].size());
  const int64_t slot = model.config.engram.slot(rows.order), last = static_cast<int64_t>(context.size()) - 1;
  std::vector<torch::Tensor> values, stored, places;
  double squares = 0;
  for (const MemoryRows& memory : input.memory) {
    places.push_back(memory.index[0][last].narrow(0, slot, heads));
    stored.push_back(memory.unique_rows);
    values.push_back(memory.unique_rows.index_select(0, places.back()).detach().clone().requires_grad_());
    squares += values.back().square().mean().item<double>() / static_cast<double>(input.memory.size());
  }
  const double step = kStepShare * std::max(1e-4, std::sqrt(squares));
  torch::optim::Adam adam(values, torch::optim::AdamOptions(step));
  const Transformer& transformer = model.model;
  for (int64_t i = 0; i < steps; ++i) {
    for (size_t layer = 0; layer < values.size(); ++layer) {
      input.memory[layer].unique_rows = stored[layer].index_copy(0, places[layer], values[layer]);
    }
    torch::Tensor loss = transformer->loss(transformer->forward(input), wanted);
    const auto gradients = torch::autograd::grad({loss}, values);  // of these rows alone; weights collect none
    for (size_t layer = 0; layer < values.size(); ++layer) values[layer].mutable_grad() = gradients[layer].clone();
    adam.step();
  }
  for (torch::Tensor& value : values) value = value.detach();
  return values;
}

Result<LoadedModel> with_rows(Env& env, const LoadedModel& model, const NgramRowIds& rows,
                              const std::vector<torch::Tensor>& values) {
  ENGRAM_ASSIGN_OR_RETURN(std::vector<torch::Tensor> tables, load_table_rows(env, model.directory, model.config));
  LoadedModel out;
  out.directory = model.directory;
  out.config = model.config;
  out.special = model.special;
  out.model = model.model;
  out.tokenizer = model.tokenizer;
  out.hasher = model.hasher;
  for (size_t layer = 0; layer < tables.size(); ++layer) {
    tables[layer].index_copy_(0, torch::tensor(rows.row_ids[layer], torch::kLong), values[layer]);
    out.tables.push_back(std::make_unique<ResidentTable>(tables[layer]));
  }
  return out;
}

EditedPositions compare_edit(const LoadedModel& before, const LoadedModel& after, const NgramRowIds& rows,
                             const ProbeText& text) {
  torch::InferenceMode inference;
  std::vector<std::unordered_set<int64_t>> edited;
  for (const auto& ids : rows.row_ids) edited.emplace_back(ids.begin(), ids.end());
  EditedPositions out;
  for_each_window(
      text.tokens, text.document_starts, before.config.max_position_embeddings,
      windows_per_batch(before.config, before.config.max_position_embeddings), [&](const WindowBatch& batch) {
        for (int64_t w = 0; w < batch.count; ++w) {
          const std::vector<int32_t> window(batch.tokens.begin() + w * batch.length,
                                            batch.tokens.begin() + (w + 1) * batch.length);
          std::vector<int64_t> hits(window.size(), 0);
          int64_t all = 0;
          const RowIds row_ids = value_or_throw(before.hasher.hash(window, batch.starts[static_cast<size_t>(w)]));
          const auto slots = static_cast<size_t>(row_ids.rows_per_token());
          for (size_t layer = 0; layer < edited.size(); ++layer) {
            const auto ids = row_ids.layer(static_cast<int>(layer));
            for (size_t i = 0; i < ids.size(); ++i)
              hits[i / slots] += static_cast<int64_t>(edited[layer].count(ids[i]));
            all += static_cast<int64_t>(rows.row_ids[layer].size());
          }
          bool touched = false;
          for (const int64_t count : hits) {
            out.tie.push_back(count == all ? Tie::kNgram
                              : count > 0  ? Tie::kShared
                              : touched    ? Tie::kBehind
                                           : Tie::kUntouched);
            touched = touched || count > 0;
          }
        }
        const auto predict = [&](const LoadedModel& model) {
          const Transformer& transformer = model.model;
          return transformer
              ->logits(transformer->forward(model.prepare_input(batch.tokens, batch.count, batch.length, batch.starts)))
              .log_softmax(2);
        };
        const torch::Tensor old = predict(before), now = predict(after);
        const torch::Tensor kl = (old.exp() * (old - now)).sum(2).to(torch::kCPU).contiguous();
        out.divergence.insert(out.divergence.end(), kl.const_data_ptr<float>(),
                              kl.const_data_ptr<float>() + kl.numel());
        return true;
      });
  return out;
}

Result<ProbeResult> probe_edit(const ProbeContext& context) {
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel* const found,
                          context.model_with([](const ModelConfig& c) { return c.memory == MemoryKind::kEngram; },
                                             "no Engram layer, so it has no rows to edit"));
  const LoadedModel& model = *found;
  const ProbeOptions& options = context.options;
  if (options.save_overlay.empty() != options.table.empty())
    return invalid_argument("{}: got none, wanted {}", options.table.empty() ? "table" : "save-overlay",
                            options.table.empty() ? "the row file that the overlay is for" : "the overlay's path");
  ENGRAM_ASSIGN_OR_RETURN(const ProbeText text, context.read_text());
  ENGRAM_ASSIGN_OR_RETURN(const auto tokens, encode(model, options.ngram, "ngram"));
  ENGRAM_ASSIGN_OR_RETURN(const auto target, encode(model, options.target, "target"));
  ENGRAM_ASSIGN_OR_RETURN(const NgramRowIds rows, rows_of_ngram(model, tokens));
  const auto room = static_cast<size_t>(model.config.max_position_embeddings);
  if (target.empty() || tokens.size() + target.size() > room) {
    return invalid_argument("target: got {} tokens behind {}, wanted at least 1 and at most {} in all", target.size(),
                            tokens.size(), room);
  }
  std::vector<torch::Tensor> values;
  if (options.toward.empty()) {
    values = train_rows(model, rows, tokens, target, options.steps);
  } else {
    ENGRAM_ASSIGN_OR_RETURN(const auto other_tokens, encode(model, options.toward, "toward"));
    ENGRAM_ASSIGN_OR_RETURN(const NgramRowIds other, rows_of_ngram(model, other_tokens));
    if (other.order != rows.order) {
      return invalid_argument("toward: got an n-gram of {} tokens, wanted {} like ngram's", other.order, rows.order);
    }
    ENGRAM_ASSIGN_OR_RETURN(const auto tables, load_table_rows(context.env, model.directory, model.config));
    for (size_t layer = 0; layer < tables.size(); ++layer) {
      values.push_back(tables[layer].index_select(0, torch::tensor(other.row_ids[layer], torch::kLong)));
    }
  }
  ENGRAM_ASSIGN_OR_RETURN(const LoadedModel after, with_rows(context.env, model, rows, values));

  std::vector<Continuation> in_text;
  for (const int64_t position : occurrences(model, rows, text)) {
    const int64_t begin = std::max<int64_t>(
        0, position + 1 - std::min<int64_t>(kContextTokens, static_cast<int64_t>(room - target.size())));
    in_text.push_back({{text.tokens.begin() + begin, text.tokens.begin() + position + 1}, target});
  }
  Effect effect;
  const std::vector<Continuation> alone = {{tokens, target}};
  ENGRAM_ASSIGN_OR_RETURN(effect.alone, target_scores(model, alone));
  ENGRAM_ASSIGN_OR_RETURN(effect.alone_after, target_scores(after, alone));
  ENGRAM_ASSIGN_OR_RETURN(effect.in_text, target_scores(model, in_text));
  ENGRAM_ASSIGN_OR_RETURN(effect.in_text_after, target_scores(after, in_text));

  Page page("Edit", "Change the rows of one n-gram: does the target follow, and what else changes?");
  page.paragraph(fmt::format(
      "N-gram {} (order {}, {} rows in all layers), {}. {} tokens of {}, {} occurrences.", quote_text(options.ngram),
      rows.order, rows.row_ids.size() * rows.row_ids[0].size(),
      options.toward.empty() ? fmt::format("{} gradient steps towards {}", options.steps, quote_text(options.target))
                             : fmt::format("its rows replaced by those of {}", quote_text(options.toward)),
      text.tokens.size(), text.path, in_text.size()));
  Json numbers = {{"text", text.path},        {"tokens", text.tokens.size()}, {"ngram", options.ngram},
                  {"order", rows.order},      {"toward", options.toward},     {"target", options.target},
                  {"steps", options.steps},   {"row_ids", rows.row_ids},      {"effect", Json::array()},
                  {"locality", Json::array()}};
  if (!options.save_overlay.empty())
    ENGRAM_RETURN_IF_ERROR(save_overlay(context.env, options, model, rows, values, page, numbers));
  show_effect(effect, options.target, page, numbers);
  show_locality(compare_edit(model, after, rows, text), page, numbers);
  return ProbeResult{std::move(numbers), std::move(page)};
}

}  // namespace engram
