// Patchscope (experiment E7): in which block is an entity resolved?
//
// The state of a name's last token after block l is put, after block l, in the place of the last token of a prompt
// that describes things by example and ends in a placeholder; what the model then writes says what the state holds
// (Ghandeharioun et al. 2024, section 4.3). It is asked of every entity of a list and of every layer; key words decide
// whether a text names the entity (lab/probes/resolution.h). The paper asks it of "Diana, Princess of Wales".
//
// A model that cannot describe things that it is told by name cannot be read this way: it is reported as "not testable"
// and nothing is patched.
#pragma once
#include "engram/lab/probes/probe.h"
#include "engram/lab/probes/resolution.h"

namespace engram {

// What the model writes about the entities behind `prompt`, whose last token is the placeholder that a name replaces.
Result<std::vector<std::string>> describe_by_name(Env& env, const LoadedModel& model, const std::string& prompt,
                                                  const std::vector<KnownEntity>& entities);
// The same from the state of the text's last token, one description for each layer of each text. A line feed precedes
// each text, as the lines of the prompt have it.
Result<LayerTexts> describe_by_state(const LoadedModel& model, const std::string& prompt,
                                     const std::vector<std::string>& texts);

Result<ProbeResult> probe_patchscope(const ProbeContext& context);

}  // namespace engram
