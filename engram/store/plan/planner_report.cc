// How a plan is shown: JSON, a table for people, a plot.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engram/store/plan/planner.h"

namespace engram {
namespace {

std::string bytes_text(double bytes) {
  for (const char* unit : {"B", "KiB", "MiB", "GiB"}) {
    if (bytes < 1024) return fmt::format("{:.{}f} {}", bytes, bytes < 10 && unit[0] != 'B' ? 2 : 1, unit);
    bytes /= 1024;
  }
  return fmt::format("{:.1f} TiB", bytes);
}

template <typename T>
nlohmann::ordered_json or_null(const std::optional<T>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

struct Policy {
  const char* name;
  const char* color;
  double CachePoint::*rate;
};
constexpr Policy kPolicies[] = {{"hot set", "#c0392b", &CachePoint::hot},
                                {"LRU", "#7f8c8d", &CachePoint::lru},
                                {"S3-FIFO", "#2471a3", &CachePoint::s3_fifo},
                                {"hot set + S3-FIFO", "#1e8449", &CachePoint::mixed}};

}  // namespace

nlohmann::ordered_json plan_json(const CorpusProfile& profile, const Plan& plan) {
  nlohmann::ordered_json json = {{"tokens", profile.num_tokens},           {"rows_per_token", profile.rows_per_token},
                                 {"distinct_rows", profile.distinct_rows}, {"table_rows", profile.table_rows},
                                 {"table_bytes", plan.table_bytes},        {"seen_before", profile.seen_before},
                                 {"zipf_exponent", profile.zipf_exponent}};
  json["distinct_rows_per_token"] = nlohmann::ordered_json::array();
  for (const auto& [batch, distinct] : profile.distinct_per_token)
    json["distinct_rows_per_token"].push_back({{"batch_tokens", batch}, {"rows", distinct}});
  json["hit_rates"] = nlohmann::ordered_json::array();
  for (const CachePoint& point : profile.points)
    json["hit_rates"].push_back({{"rows", point.rows},
                                 {"share", static_cast<double>(point.rows) / static_cast<double>(profile.table_rows)},
                                 {"hot", point.hot},
                                 {"lru", point.lru},
                                 {"s3_fifo", point.s3_fifo},
                                 {"mixed", point.mixed}});
  json["tiers"] = nlohmann::ordered_json::array();
  for (const PlanTier& tier : plan.tiers)
    json["tiers"].push_back({{"uri", tier.uri},
                             {"memory_bytes", tier.memory_bytes},
                             {"hit_rate", tier.hit_rate},
                             {"memory_bytes_per_token", tier.memory_bytes_per_token},
                             {"drive_bytes_per_token", tier.drive_bytes_per_token},
                             {"reads_per_token", tier.reads_per_token},
                             {"reads_per_second", or_null(tier.reads_per_second)},
                             {"max_tokens_per_second", or_null(tier.max_tokens_per_second)},
                             {"fits", tier.fits}});
  const PlanTier& best = plan.tiers[plan.recommended];
  json["recommended"] = best.uri;
  json["fits"] = best.fits;
  return json;
}

std::string plan_text(const CorpusProfile& profile, const Plan& plan, const PlanOptions& options) {
  std::string text = fmt::format("table: {} rows, {}; {} rows a token\n", profile.table_rows,
                                 bytes_text(static_cast<double>(plan.table_bytes)), profile.rows_per_token);
  text += fmt::format("text: {} tokens ask for {} distinct rows ({:.2f} % of the table), Zipf exponent {:.2f}\n",
                      profile.num_tokens, profile.distinct_rows,
                      100.0 * static_cast<double>(profile.distinct_rows) / static_cast<double>(profile.table_rows),
                      profile.zipf_exponent);
  text += fmt::format("{:.1f} % of the second half's accesses are to rows that the first half has seen\n",
                      100 * profile.seen_before);
  for (const auto& [batch, distinct] : profile.distinct_per_token)
    text += fmt::format("{:.1f} distinct rows a token in batches of {}\n", distinct, batch);
  text += fmt::format("\n{:>12} {:>9} {:>9} {:>9} {:>9} {:>9}   hit rates, second half of the sample\n", "cache",
                      "share", "hot set", "LRU", "S3-FIFO", "both");
  const double row_bytes = static_cast<double>(plan.table_bytes) / static_cast<double>(profile.table_rows);
  for (const CachePoint& point : profile.points) {
    text += fmt::format("{:>12} {:>8.2f}% {:>8.1f}% {:>8.1f}% {:>8.1f}% {:>8.1f}%\n",
                        bytes_text(static_cast<double>(point.rows) * row_bytes),
                        100.0 * static_cast<double>(point.rows) / static_cast<double>(profile.table_rows),
                        100 * point.hot, 100 * point.lru, 100 * point.s3_fifo, 100 * point.mixed);
  }
  text += fmt::format("\n{:>10} {:>9} {:>12} {:>12} {:>12} {:>6}  tier\n", "memory", "hits", "reads/token", "reads/s",
                      "tokens/s <=", "fits");
  for (const PlanTier& tier : plan.tiers) {
    const auto number = [](const std::optional<double>& value) { return value ? fmt::format("{:.0f}", *value) : "-"; };
    text += fmt::format("{:>10} {:>8.1f}% {:>12.2f} {:>12} {:>12} {:>6}  {}\n",
                        bytes_text(static_cast<double>(tier.memory_bytes)), 100 * tier.hit_rate, tier.reads_per_token,
                        number(tier.reads_per_second), number(tier.max_tokens_per_second), tier.fits ? "yes" : "no",
                        tier.uri);
  }
  const PlanTier& best = plan.tiers[plan.recommended];
  text += fmt::format("\nrecommended: {}\n", best.uri);
  if (!best.fits && best.max_tokens_per_second)
    text += fmt::format("it does not fit: the drive carries {:.0f} tokens/s, wanted {:.0f}\n",
                        *best.max_tokens_per_second, options.tokens_per_second.value_or(0));
  if (!options.drive_iops && plan.recommended != 0)
    text += "the drive's speed is unknown: drive_iops, its 4 KiB reads a second, is not given\n";
  return text;
}

std::string plan_svg(const CorpusProfile& profile, const Plan& plan) {
  constexpr double kLeft = 70, kTop = 40, kWidth = 560, kHeight = 320;
  const double row_bytes = static_cast<double>(plan.table_bytes) / static_cast<double>(profile.table_rows);
  const double low = std::log(static_cast<double>(profile.points.front().rows));
  const double high = std::max(low + 1, std::log(static_cast<double>(profile.points.back().rows)));
  const auto x = [&](double rows) { return kLeft + kWidth * (std::log(rows) - low) / (high - low); };
  const auto y = [&](double rate) { return kTop + kHeight * (1 - rate); };
  std::string svg =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 820 430\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"820\" height=\"430\" fill=\"white\"/>\n";
  svg += fmt::format("<text x=\"{}\" y=\"22\" font-size=\"15\">Hit rate by cache size, {} tokens, table of {}</text>\n",
                     kLeft, profile.num_tokens, bytes_text(static_cast<double>(plan.table_bytes)));
  for (int percent = 0; percent <= 100; percent += 20) {
    svg += fmt::format("<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#ddd\"/>", kLeft, kLeft + kWidth,
                       y(percent / 100.0), y(percent / 100.0));
    svg += fmt::format("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{} %</text>\n", kLeft - 8,
                       y(percent / 100.0) + 4, percent);
  }
  // A label wherever the one before is far enough away.
  double last = -1e9;
  for (const CachePoint& point : profile.points) {
    const double at = x(static_cast<double>(point.rows));
    if (at - last < 62) continue;
    last = at;
    svg += fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#eee\"/>", at, kTop,
                       kTop + kHeight);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", at, kTop + kHeight + 18,
                       bytes_text(static_cast<double>(point.rows) * row_bytes));
  }
  double legend = kTop + 20;
  for (const Policy& policy : kPolicies) {
    std::string line;
    for (const CachePoint& point : profile.points)
      line += fmt::format("{:.1f},{:.1f} ", x(static_cast<double>(point.rows)), y(point.*policy.rate));
    svg +=
        fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\" points=\"{}\"/>\n", policy.color, line);
    svg += fmt::format("<line x1=\"650\" x2=\"675\" y1=\"{0}\" y2=\"{0}\" stroke=\"{1}\" stroke-width=\"2\"/>", legend,
                       policy.color);
    svg += fmt::format("<text x=\"682\" y=\"{}\">{}</text>\n", legend + 4, policy.name);
    legend += 22;
  }
  svg +=
      fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">rows in the cache (bytes of rows)</text>\n</svg>\n",
                  kLeft + kWidth / 2, kTop + kHeight + 44);
  return svg;
}

}  // namespace engram
