#include "engram/lab/probes/logit_lens.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engram/core/progress.h"
#include "engram/model/windows.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

void append_window_means(std::vector<double>& out, const torch::Tensor& values_WT) {
  const torch::Tensor means = values_WT.to(torch::kDouble).mean(1).to(torch::kCPU).contiguous();
  out.insert(out.end(), means.const_data_ptr<double>(), means.const_data_ptr<double>() + means.numel());
}

// What follows a window's last token is known where windows are neighbours.
void trace_batch(const LoadedModel& model, const WindowBatch& batch, bool neighbours, LensTrace& out) {
  const Transformer& transformer = model.model;
  ForwardTrace trace;
  trace.want_block_outputs = true;
  const torch::Tensor hidden =
      transformer->forward(model.prepare_input(batch.tokens, batch.count, batch.length, batch.starts), &trace);
  const torch::Tensor last = transformer->logits(hidden).log_softmax(2);
  const torch::Tensor probability = last.exp(), choice = last.argmax(2);
  const torch::Tensor targets = batch.targets.to(last.device()).unsqueeze(2);
  // Expectations under the final prediction as products of a row with a column: no copy of [B, T, V] is made.
  const int64_t rows = batch.count * batch.length, V = last.size(2);
  const auto expected = [&](const torch::Tensor& values) {
    return torch::bmm(probability.view({rows, 1, V}), values.reshape({rows, V, 1})).view({batch.count, batch.length});
  };
  const torch::Tensor negative_entropy = expected(last);
  for (size_t block = 0; block < trace.block_outputs.size(); ++block) {
    const torch::Tensor logits = transformer->block_logits(trace.block_outputs[block]);
    const torch::Tensor scale = logits.logsumexp(2);
    append_window_means(out.divergence[block], negative_entropy - (expected(logits) - scale));
    const torch::Tensor nats = scale - logits.gather(2, targets).squeeze(2);
    append_window_means(out.loss[block], nats.narrow(1, 0, batch.length - (neighbours ? 0 : 1)));
    append_window_means(out.agreement[block], logits.argmax(2).eq(choice));
  }
}

Json estimates(const std::vector<std::vector<double>>& windows) {
  Json out = Json::array();
  for (const auto& block : windows) out.push_back(to_json(estimate(block)));
  return out;
}

Series curve_of(const std::string& label, const std::vector<std::vector<double>>& windows) {
  Series series{label, {}, {}, {}, {}};
  for (size_t block = 0; block < windows.size(); ++block) {
    const Estimate value = estimate(windows[block]);
    series.x.push_back(static_cast<double>(block));
    series.y.push_back(value.mean);
    series.low.push_back(value.mean - 1.96 * value.error);
    series.high.push_back(value.mean + 1.96 * value.error);
  }
  return series;
}

// Both models read the same windows, so their difference is taken window by window.
std::vector<Estimate> paired_differences(const LensTrace& a, const LensTrace& b) {
  std::vector<Estimate> out;
  const size_t blocks = std::min(a.divergence.size(), b.divergence.size());
  for (size_t block = 0; block < blocks; ++block) {
    std::vector<double> difference;
    for (size_t w = 0; w < a.divergence[block].size(); ++w) {
      difference.push_back(b.divergence[block][w] - a.divergence[block][w]);
    }
    out.push_back(estimate(difference));
  }
  return out;
}

// null: of a model that has what the first has, trained with another seed; or empty.
void show_differences(const ProbeContext& context, const std::vector<Estimate>& differences,
                      const std::vector<Estimate>& null, Page& page, Json& numbers) {
  const std::string &first = context.labels[0], &second = context.labels[1];
  std::vector<std::string> header = {"layer", "KL difference, nats", fmt::format("{} is", second)};
  if (!null.empty()) header.push_back(fmt::format("the null minus {}", first));
  std::vector<std::vector<std::string>> rows;
  for (size_t block = 0; block < differences.size(); ++block) {
    const auto [mean, error, count] = differences[block];
    // The last block is the end itself: what differs there is rounding.
    rows.push_back({fmt::format("{}", block), with_error(mean, error),
                    std::abs(mean) < 1e-5  ? "no difference seen"
                    : mean < -1.96 * error ? "nearer to its end"
                    : mean > 1.96 * error  ? "further from its end"
                                           : "no difference seen"});
    numbers["difference"].push_back(to_json(differences[block]));
    if (null.empty()) continue;
    rows.back().push_back(block < null.size() ? with_error(null[block].mean, null[block].error) : "-");
  }
  for (const Estimate& one : null) numbers["null_difference"].push_back(to_json(one));
  page.table(
      fmt::format("{} minus {}", second, first),
      "Paired by window, so the errors are over text and for these models alone. Below zero: the layer is nearer "
      "to its final prediction.",
      header, rows);
  if (null.empty())
    page.paragraph("No null: how much two models of different seeds differ in this way is not known here.");
}

}  // namespace

LensTrace trace_lens(const LoadedModel& model, const ProbeText& text, int64_t window) {
  torch::InferenceMode inference;
  const auto blocks = static_cast<size_t>(model.config.num_hidden_layers);
  LensTrace out;
  out.divergence.resize(blocks);
  out.loss.resize(blocks);
  out.agreement.resize(blocks);
  Progress progress("logit-lens", static_cast<int64_t>(text.tokens.size()) - 1, "tokens");
  for_each_window(text.tokens, text.document_starts, window, windows_per_batch(model.config, window),
                  [&](const WindowBatch& batch) {
                    if (batch.length == window || batch.begin == 0) trace_batch(model, batch, text.piece == 0, out);
                    progress.advance(batch.count * batch.length);
                    return true;
                  });
  return out;
}

Result<ProbeResult> probe_logit_lens(const ProbeContext& context) {
  ENGRAM_ASSIGN_OR_RETURN(const ProbeText text, context.read_windows());
  std::vector<LensTrace> traces;
  Json models = Json::array();
  std::vector<Series> divergence, loss;
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < context.models.size(); ++i) {
    traces.push_back(trace_lens(context.models[i], text, context.window()));
    const LensTrace& trace = traces.back();
    models.push_back({{"label", context.labels[i]},
                      {"divergence", estimates(trace.divergence)},
                      {"loss", estimates(trace.loss)},
                      {"agreement", estimates(trace.agreement)},
                      {"divergence_windows", trace.divergence}});
    divergence.push_back(curve_of(context.labels[i], trace.divergence));
    loss.push_back(curve_of(context.labels[i], trace.loss));
    for (size_t block = 0; block < trace.divergence.size(); ++block) {
      const Estimate kl = estimate(trace.divergence[block]), nats = estimate(trace.loss[block]);
      rows.push_back({fmt::format("{}, layer {}", context.labels[i], block), with_error(kl.mean, kl.error),
                      with_error(nats.mean, nats.error), fixed_text(estimate(trace.agreement[block]).mean)});
    }
  }
  Page page("Logit lens",
            "Are predictions ready in earlier blocks? KL between what the model finally predicts and what "
            "each block's state predicts through the same norm and head, in nats per token.");
  page.paragraph(fmt::format(
      "{} tokens of {}; {} windows of {} tokens, spread over the text, are the sample. Bars and +- : 1.96 "
      "and 1 standard errors. {}",
      text.tokens.size(), text.path, traces[0].divergence[0].size(), context.window(), kLayersCountFromZero));
  page.lines("Distance from the final prediction", "", "layer", "KL(final || layer), nats", divergence);
  page.lines("Loss if the model ended here", "", "layer", "nats per token", loss);
  page.table("Per layer", "", {"model, layer", "KL, nats", "loss, nats", "same first choice"}, rows);
  Json numbers = {
      {"text", text.path}, {"tokens", text.tokens.size()}, {"window", context.window()}, {"models", models}};
  if (traces.size() == 2) {
    std::vector<Estimate> null;
    if (context.null) null = paired_differences(traces[0], trace_lens(*context.null, text, context.window()));
    show_differences(context, paired_differences(traces[0], traces[1]), null, page, numbers);
  }
  return ProbeResult{std::move(numbers), std::move(page)};
}

}  // namespace engram
