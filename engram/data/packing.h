// Packing: how text is cut into the windows that a model reads.
#pragma once

namespace engram {

enum class Packing {
  // Every sequence_length tokens, wherever documents end. Every token is a target.
  kStream,
  // A window holds whole documents, as many as fit one after the other. A document that is longer than a window has
  // windows to itself, which overlap by one token. No window predicts a document's first token. What is left of a
  // window repeats its last token and has no targets.
  kDocuments
};

}  // namespace engram
