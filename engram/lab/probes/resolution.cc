#include "engram/lab/probes/resolution.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace engram {
namespace {

constexpr int64_t kDraws = 2000;

// The first layer whose text holds one of the words; the number of layers when none does.
int64_t first_layer(const std::vector<std::string>& texts, const std::vector<std::string>& words) {
  const auto found = std::ranges::find_if(texts, [&](const std::string& text) { return holds_word(text, words); });
  return found - texts.begin();
}

// Share of the layers in `first` that are at most l, for every l.
std::vector<double> shares_so_far(const std::vector<int64_t>& first, int64_t layers) {
  std::vector<double> out(static_cast<size_t>(layers));
  for (size_t l = 0; l < out.size(); ++l) {
    const auto so_far = std::ranges::count_if(first, [&](int64_t at) { return at <= static_cast<int64_t>(l); });
    out[l] = static_cast<double>(so_far) / static_cast<double>(first.size());
  }
  return out;
}

std::vector<double> chosen_layers(const std::vector<int64_t>& first, const std::vector<bool>& chosen) {
  std::vector<double> out;
  for (size_t e = 0; e < first.size(); ++e) {
    if (chosen[e]) out.push_back(static_cast<double>(first[e]));
  }
  return out;
}

double share_of(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return percentile(values, share);
}

std::vector<double> picked(const std::vector<double>& values, std::span<const int64_t> units) {
  std::vector<double> out;
  for (const int64_t unit : units) out.push_back(values[static_cast<size_t>(unit)]);
  return out;
}

}  // namespace

Ability measure_ability(const std::vector<KnownEntity>& entities, const std::vector<std::string>& told) {
  Ability out;
  for (size_t e = 0; e < entities.size(); ++e) {
    for (size_t other = 0; other < entities.size(); ++other) {
      const bool holds = holds_word(told[e], entities[other].words);
      if (e == other) {
        out.known.push_back(holds);
        out.right += holds;
      } else {
        out.wrong += holds;
        ++out.wrong_trials;
      }
    }
  }
  const double chance = static_cast<double>(out.wrong) / static_cast<double>(std::max<int64_t>(1, out.wrong_trials));
  out.testable = out.right > 0 && wilson_interval(out.right, static_cast<int64_t>(entities.size())).low > chance;
  return out;
}

Resolution resolve(const std::vector<KnownEntity>& entities, const Descriptions& texts,
                   const std::vector<bool>& known) {
  Resolution out;
  out.layers = static_cast<int64_t>(texts.patched.at(0).size());
  out.named.resize(static_cast<size_t>(out.layers));
  std::vector<int64_t> of_known, of_others, of_last_word;
  for (size_t e = 0; e < entities.size(); ++e) {
    const std::vector<std::string>& words = entities[e].words;
    out.first.push_back(first_layer(texts.patched[e], words));
    out.first_last_word.push_back(first_layer(texts.last_word[e], words));
    if (!known[e]) continue;
    of_known.push_back(out.first.back());
    of_last_word.push_back(out.first_last_word.back());
    for (size_t l = 0; l < out.named.size(); ++l) out.named[l] += holds_word(texts.patched[e][l], words);
    for (size_t other = 0; other < entities.size(); ++other) {
      if (other != e && known[other]) of_others.push_back(first_layer(texts.patched[e], entities[other].words));
    }
  }
  for (double& share : out.named) share /= static_cast<double>(of_known.size());
  out.resolved = shares_so_far(of_known, out.layers);
  out.last_word = shares_so_far(of_last_word, out.layers);
  out.others = of_others.empty() ? std::vector<double>(out.named.size()) : shares_so_far(of_others, out.layers);
  return out;
}

Quartiles quartiles(const std::vector<int64_t>& first, const std::vector<bool>& chosen, int64_t seed) {
  const std::vector<double> layers = chosen_layers(first, chosen);
  Quartiles out{share_of(layers, 0.25), share_of(layers, 0.5), share_of(layers, 0.75), {}};
  out.median_interval = bootstrap_intervals(
      std::ssize(layers), kDraws, static_cast<uint64_t>(seed),
      [&](std::span<const int64_t> units) { return std::vector<double>{share_of(picked(layers, units), 0.5)}; })[0];
  return out;
}

ResolutionChange compare_resolutions(const Resolution& first, const Resolution& second, const std::vector<bool>& chosen,
                                     int64_t seed) {
  const std::vector<double> a = chosen_layers(first.first, chosen), b = chosen_layers(second.first, chosen);
  const auto statistic = [&](std::span<const int64_t> units) {
    double sum = 0, both = 0;
    for (const int64_t unit : units) {
      const auto at = static_cast<size_t>(unit);
      if (a[at] == static_cast<double>(first.layers) || b[at] == static_cast<double>(second.layers)) continue;
      sum += b[at] - a[at];
      ++both;
    }
    return std::vector<double>{share_of(picked(b, units), 0.5) - share_of(picked(a, units), 0.5),
                               both > 0 ? sum / both : std::numeric_limits<double>::quiet_NaN(), both};
  };
  ResolutionChange out;
  out.entities = std::ssize(a);
  std::vector<int64_t> all(a.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
  const std::vector<double> values = statistic(all);
  const auto intervals = bootstrap_intervals(out.entities, kDraws, static_cast<uint64_t>(seed), statistic);
  out.median = values[0];
  out.mean = values[1];
  out.both = static_cast<int64_t>(values[2]);
  out.median_interval = intervals[0];
  out.mean_interval = intervals[1];
  return out;
}

}  // namespace engram
