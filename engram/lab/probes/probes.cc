#include "engram/lab/probes/probes.h"

#include <algorithm>
#include <array>

#include "engram/core/json.h"
#include "engram/core/machine.h"
#include "engram/core/output_lock.h"
#include "engram/lab/probes/alignment.h"
#include "engram/lab/probes/collisions.h"
#include "engram/lab/probes/edit.h"
#include "engram/lab/probes/gate_probe.h"
#include "engram/lab/probes/knock_out.h"
#include "engram/lab/probes/logit_lens.h"
#include "engram/lab/probes/long_ppl.h"
#include "engram/lab/probes/patchscope.h"
#include "engram/lab/probes/ruler_probe.h"
#include "engram/model/parameters.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kProbes = {
    ProbeEntry{"logit-lens", "Are predictions ready in earlier blocks?", probe_logit_lens, "text window null"},
    ProbeEntry{"cka", "Which block of one model does a block of the other look like?", probe_alignment,
               "text window entities null"},
    ProbeEntry{"patchscope", "In which block is an entity resolved?", probe_patchscope, "entities entity describe"},
    ProbeEntry{"knock-out", "What does the memory hold: facts, or what is in the prompt?", probe_knock_out,
               "items reading"},
    ProbeEntry{"gates", "Does the gate fire at the end of names and fixed phrases?", probe_gates,
               "text window entities"},
    ProbeEntry{"collisions", "Which n-grams share rows, and does it hurt?", probe_collisions, "text train-text"},
    ProbeEntry{"edit", "Change the rows of one n-gram: what else changes?", probe_edit,
               "text ngram toward target steps save-overlay table"},
    ProbeEntry{"ruler", "Does the model find what is far back in its context?", probe_ruler,
               "lengths samples digits needles haystack facts"},
    ProbeEntry{"long-ppl", "How well does it predict the tokens that a long context helps with?", probe_long_ppl,
               "text short"},
};

std::string memory_name(const ModelConfig& config) {
  if (config.memory == MemoryKind::kNone) return "no memory";
  if (config.memory == MemoryKind::kOverEncoding) return "OverEncoding";
  if (config.engram.rule == HashRule::kEngram) return "Engram";
  return fmt::format("Engram, rule {}", hash_rule_name(config.engram.rule));
}

Result<Json> describe_checkpoint(const LoadedModel& model, const std::string& label) {
  ENGRAM_ASSIGN_OR_RETURN(const ParameterCount count, count_parameters(model.config));
  return Json{{"label", label},
              {"directory", model.directory},
              {"memory", memory_name(model.config)},
              {"p_tot", count.p_tot},
              {"p_act", count.p_act},
              {"rho", count.rho},
              {"blocks", model.config.num_hidden_layers}};
}

// An older result may be replaced by the same measurement only.
Status check_output(Env& env, const std::string& path, const Json& wanted) {
  if (!env.file_exists(path)) return Status();
  ENGRAM_ASSIGN_OR_RETURN(const auto old, read_json_file(env, path));
  for (const char* key : {"probe", "commit", "checkpoints"}) {
    const auto* value = json_find(old, key);
    if (value != nullptr && *value == nlohmann::json(wanted.at(key))) continue;
    return make_status(StatusCode::kAlreadyExists, "{}: its {} is {}, this run's {}: name another output", path, key,
                       value == nullptr ? "missing" : quote_text(value->dump(), 200),
                       quote_text(wanted.at(key).dump(), 200));
  }
  return Status();
}

}  // namespace

std::span<const ProbeEntry> probe_table() { return kProbes; }

const ProbeEntry* find_probe(const std::string& name) {
  for (const ProbeEntry& probe : kProbes) {
    if (name == probe.name) return &probe;
  }
  return nullptr;
}

Result<ProbeText> ProbeContext::read_whole_text() const {
  std::string path = options.text;
  if (path.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(path, text_of_recipe(env, models[0], TextRole::kValidation));
  }
  return read_probe_text(env, path, *models[0].tokenizer);
}

Result<ProbeText> ProbeContext::read_text() const {
  ENGRAM_ASSIGN_OR_RETURN(ProbeText text, read_whole_text());
  shorten(text, options.max_tokens);
  return text;
}

Result<ProbeText> ProbeContext::read_windows() const {
  ENGRAM_ASSIGN_OR_RETURN(ProbeText text, read_whole_text());
  spread(text, options.max_tokens, window());
  return text;
}

Result<const LoadedModel*> ProbeContext::model_with(bool (*memory)(const ModelConfig&), const char* without) const {
  const auto found =
      std::find_if(models.rbegin(), models.rend(), [&](const LoadedModel& model) { return memory(model.config); });
  if (found != models.rend()) return &*found;
  return invalid_argument("{}: the checkpoint has {}", models[0].directory, without);
}

int64_t ProbeContext::context_length() const {
  int64_t length = (null ? *null : models[0]).config.max_position_embeddings;
  for (const LoadedModel& model : models) length = std::min<int64_t>(length, model.config.max_position_embeddings);
  return length;
}

int64_t ProbeContext::window() const {
  const int64_t window = std::min(context_length(), options.window > 0 ? options.window : int64_t{1024});
  return options.max_tokens > 0 ? std::min(window, options.max_tokens) : window;
}

Result<std::vector<LoadedModel>> load_probe_models(Env& env, const std::vector<std::string>& checkpoints) {
  std::vector<LoadedModel> models;
  for (const std::string& path : checkpoints) {
    ENGRAM_ASSIGN_OR_RETURN(LoadedModel model, load_model(env, path));
    models.push_back(std::move(model));
    const auto &digest = models.back().tokenizer->vocabulary_digest(),
               &first = models[0].tokenizer->vocabulary_digest();
    if (digest != first) {
      return invalid_argument("{}: got the vocabulary {}, wanted {}, that of {}", models.back().directory, digest,
                              first, models[0].directory);
    }
  }
  return models;
}

Result<Json> run_probe(Env& env, const ProbeEntry& probe, const ProbeOptions& options, std::string* output) {
  std::vector<std::string> paths = options.checkpoints;
  if (paths.empty() || paths.size() > 2)
    return invalid_argument("checkpoints: got {}, wanted one or two", paths.size());
  if (!options.null.empty() && paths.size() < 2)
    return invalid_argument("null: got one without a pair to compare with it");
  if (!options.null.empty()) paths.push_back(options.null);
  ENGRAM_ASSIGN_OR_RETURN(std::vector<LoadedModel> models, load_probe_models(env, paths));
  ProbeContext context{env, options, std::move(models), {}, {}};
  if (!options.null.empty()) {
    context.null = std::move(context.models.back());
    context.models.pop_back();
  }
  for (const LoadedModel& model : context.models) context.labels.push_back(memory_name(model.config));
  if (context.labels.size() == 2 && context.labels[0] == context.labels[1]) {
    context.labels[0] += " (first)";
    context.labels[1] += " (second)";
  }
  Json checkpoints = Json::array();
  for (size_t i = 0; i < context.models.size(); ++i) {
    ENGRAM_ASSIGN_OR_RETURN(Json one, describe_checkpoint(context.models[i], context.labels[i]));
    checkpoints.push_back(std::move(one));
  }
  if (context.null) {
    ENGRAM_ASSIGN_OR_RETURN(Json one, describe_checkpoint(*context.null, kNullLabel));
    checkpoints.push_back(std::move(one));
  }
  Json data = {{"probe", probe.name},      {"question", probe.question},       {"command", options.command},
               {"commit", build_commit()}, {"machine", machine_description()}, {"date", today()},
               {"seed", options.seed},     {"checkpoints", checkpoints}};
  const std::string folder =
      options.output.empty() ? join_path("results", fmt::format("{}-{}", probe.name, today())) : options.output;
  if (output != nullptr) *output = folder;
  const std::string path = join_path(folder, "data.json");
  ENGRAM_ASSIGN_OR_RETURN(const OutputLock lock, OutputLock::folder(env, folder, {}));
  ENGRAM_RETURN_IF_ERROR(check_output(env, path, data));

  ENGRAM_ASSIGN_OR_RETURN(const ProbeResult result, probe.run(context));
  data.update(result.numbers);
  data["page"] = result.page.json();
  ENGRAM_RETURN_IF_ERROR(write_page_files(env, folder, data));
  return data;
}

}  // namespace engram
