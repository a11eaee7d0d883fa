#include "engram/lab/probes/patched_text.h"

#include <algorithm>

#include "engram/text/utf8_stream.h"

namespace engram {
namespace {

constexpr int64_t kCacheBytes = int64_t{1} << 29;
constexpr int64_t kMaxBatch = 256;

// Rows of `layer` for the last `count` of `length` tokens of each sequence: [batch * count, R * d_row].
torch::Tensor rows_of(const ForwardInput& input, int layer, int64_t batch, int64_t length, int64_t count) {
  const torch::Tensor rows = input.memory[static_cast<size_t>(layer)].in_order().view({batch, length, -1});
  return rows.narrow(1, length - count, count).reshape({batch * count, -1});
}

// Continues the prompt under several patches. All sequences are at the same position; one that has ended leaves.
class PatchedWriter {
 public:
  PatchedWriter(const LoadedModel& model, std::vector<int32_t> prompt, int max_tokens, int64_t batch)
      : model_(model),
        device_(model.model->parameters().front().device()),
        prompt_(std::move(prompt)),
        shared_(static_cast<int64_t>(prompt_.size()) - 1),
        own_blocks_(max_tokens / shared_ + 1),
        max_tokens_(max_tokens),
        cache_(model.config, 1 + batch * own_blocks_, shared_, device_, page_dtype(model.model->parameters().front())) {
    read_prompt();
  }

  std::vector<std::string> write(std::span<const Patch> patches) {
    std::vector<Writing> open;
    std::vector<std::string> texts(patches.size());
    for (size_t i = 0; i < patches.size(); ++i) open.push_back({i, {0}, prompt_, {}});
    for (size_t i = 0; i < open.size(); ++i) {
      const auto first = static_cast<int32_t>(1 + static_cast<int64_t>(i) * own_blocks_);
      for (int32_t block = 0; block < own_blocks_; ++block) open[i].blocks.push_back(first + block);
    }
    for (int written = 0; written < max_tokens_ && !open.empty(); ++written) {
      const torch::Tensor next = step(open, written == 0 ? patches : std::span<const Patch>()).contiguous();
      for (size_t i = 0; i < open.size(); ++i) take(open[i], next.const_data_ptr<int64_t>()[i], texts);
      std::erase_if(open, [](const Writing& writing) { return writing.ended; });
    }
    return texts;
  }

 private:
  struct Writing {
    size_t index = 0;
    std::vector<int32_t> blocks, tokens;
    Utf8Stream stream;
    bool ended = false;
  };

  void read_prompt() {
    const PagedStep step({{0, shared_, {0}}}, shared_, device_);
    const std::vector<int32_t> tokens(prompt_.begin(), prompt_.end() - 1);
    const ForwardInput input = model_.prepare_input(tokens, 1, shared_);
    StepInput in{input.tokens.view({-1}), &step, &cache_};
    in.memory = [&](int layer) { return rows_of(input, layer, 1, shared_, shared_); };
    const Transformer& transformer = model_.model;
    transformer->step(in);
  }

  // The likeliest next token of each, [open], on the CPU. patches: those that are put in, or none.
  torch::Tensor step(const std::vector<Writing>& open, std::span<const Patch> patches) {
    const auto batch = static_cast<int64_t>(open.size()), length = static_cast<int64_t>(open[0].tokens.size());
    // A token's rows depend on the n-gram that ends with it.
    const int64_t seen = std::min<int64_t>(length, std::max(1, model_.config.engram.max_ngram_size));
    std::vector<StepSequence> sequences;
    std::vector<int32_t> tails;
    for (const Writing& one : open) {
      sequences.push_back({length - 1, 1, one.blocks});
      tails.insert(tails.end(), one.tokens.end() - seen, one.tokens.end());
    }
    const PagedStep step(std::move(sequences), shared_, device_);
    const ForwardInput input = model_.prepare_input(tails, batch, seen);
    StepInput in{input.tokens.select(1, seen - 1).contiguous(), &step, &cache_};
    in.memory = [&](int layer) { return rows_of(input, layer, batch, seen, 1); };
    if (!patches.empty()) {
      in.after_block = [&](int block, torch::Tensor streams) {
        for (size_t i = 0; i < patches.size(); ++i) {
          if (patches[i].block == block) streams[static_cast<int64_t>(i)].copy_(patches[i].state_Md);
        }
      };
    }
    const c10::InferenceMode inference;
    const Transformer& transformer = model_.model;
    return transformer->logits(transformer->step(in)).argmax(-1).to(torch::kCPU);
  }

  void take(Writing& writing, int64_t next, std::vector<std::string>& texts) const {
    const auto token = static_cast<int32_t>(next);
    writing.tokens.push_back(token);
    std::string& text = texts[writing.index];
    writing.ended = model_.special.ends_text(token) || model_.tokenizer->is_special(token);
    if (!writing.ended) text += writing.stream.push(model_.tokenizer->token_bytes(token));
    if (const size_t end = text.find('\n'); end != text.npos) {
      text.resize(end);
      writing.ended = true;
    }
  }

  const LoadedModel& model_;
  const torch::Device device_;
  const std::vector<int32_t> prompt_;
  const int64_t shared_, own_blocks_;  // tokens of the prompt that no patch changes: the one page of all; pages of each
  const int max_tokens_;
  PagedCache cache_;
};

}  // namespace

Result<std::vector<torch::Tensor>> last_token_states(const LoadedModel& model, const std::string& text) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, model.tokenizer->encode(text));
  const auto length = static_cast<int64_t>(tokens.size());
  if (length < 1 || length > model.config.max_position_embeddings) {
    return invalid_argument("entity: got {} tokens, wanted 1 to {}", length, model.config.max_position_embeddings);
  }
  torch::InferenceMode inference;
  std::vector<torch::Tensor> states;
  ForwardTrace trace;
  trace.after_block = [&](int, torch::Tensor streams) { states.push_back(streams[0][length - 1].clone()); };
  const Transformer& transformer = model.model;
  transformer->forward(model.prepare_input(tokens, 1, length), &trace);
  return states;
}

Result<std::vector<std::string>> patched_texts(const LoadedModel& model, const std::string& prompt,
                                               std::span<const Patch> patches, int max_tokens, Progress* progress) {
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, model.tokenizer->encode(prompt));
  const auto length = static_cast<int64_t>(tokens.size());
  const int64_t room = model.config.max_position_embeddings - max_tokens;
  if (length < 2 || length > room) {
    return invalid_argument("prompt: got {} tokens, wanted 2 to {}: {} are to follow and the model reads {}", length,
                            room, max_tokens, model.config.max_position_embeddings);
  }
  const int64_t bytes = PagedCache::bytes_per_token(model.config) * (length + max_tokens);
  const auto count = static_cast<int64_t>(patches.size());
  const int64_t batch = std::min(count, std::clamp<int64_t>(kCacheBytes / bytes, 1, kMaxBatch));
  PatchedWriter writer(model, std::move(tokens), max_tokens, batch);
  std::vector<std::string> texts;
  for (int64_t begin = 0; begin < count; begin += batch) {
    const int64_t size = std::min(batch, count - begin);
    for (std::string& text : writer.write(patches.subspan(static_cast<size_t>(begin), static_cast<size_t>(size)))) {
      texts.push_back(std::move(text));
    }
    if (progress != nullptr) progress->advance(size);
  }
  return texts;
}

}  // namespace engram
