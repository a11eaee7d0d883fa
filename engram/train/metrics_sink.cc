#include "engram/train/metrics_sink.h"

namespace engram {
namespace {

void visit(const nlohmann::ordered_json& value, const std::string& name,
           const std::function<void(const std::string&, double)>& each) {
  if (value.is_number()) return each(name, value.get<double>());
  const std::string prefix = name.empty() ? "" : name + "/";
  if (value.is_array())
    for (size_t i = 0; i < value.size(); ++i) visit(value[i], prefix + std::to_string(i), each);
  if (!value.is_object()) return;
  for (const auto& [key, element] : value.items())
    if (!name.empty() || (key != "step" && key != "samples" && key != "histograms")) visit(element, prefix + key, each);
}

}  // namespace

void for_each_number(const nlohmann::ordered_json& line, const std::function<void(const std::string&, double)>& each) {
  visit(line, "", each);
}

}  // namespace engram
