// Any bytes as a GGUF file with a model: refused with a one-line reason, or every row of every tensor can be read.
#include <cstdint>
#include <span>
#include <vector>

#include "engram/model/convert/source_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const engram::Result<engram::GgufFile> file = engram::GgufFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!file.ok()) return 0;
  const engram::Result<engram::SourceModel> model = engram::read_gguf_model(*file);
  if (!model.ok()) {
    const std::string& reason = model.status().message();
    ENGRAM_CHECK(!reason.empty() && reason.find('\n') == std::string::npos, "reason '{}'", reason);
    return 0;
  }
  for (const engram::SourceTensor& tensor : model->tensors) {
    // The bytes are the file's, so that a model that was taken is no larger than a small multiple of it.
    std::vector<std::byte> rows(static_cast<size_t>(tensor.spec.num_bytes()));
    tensor.read(0, tensor.spec.shape[0], rows.data());
  }
  return 0;
}
