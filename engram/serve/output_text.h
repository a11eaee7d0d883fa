// OutputText: generated tokens -> the text a client may see, cut before the first stop string.
//
// Text that could be the beginning of a stop string, and bytes that do not make a character yet, are held back. Special
// tokens have no text.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "engram/text/tokenizer.h"
#include "engram/text/utf8_stream.h"

namespace engram {

class OutputText {
 public:
  OutputText(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> stop);

  // What can be shown now that `token` is there. After a stop string: what comes before it, then nothing.
  std::string push(int32_t token);
  // The rest, when generation ends for another reason.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::string release(bool at_end);

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<std::string> stop_;
  Utf8Stream utf8_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace engram
