// One tensor between a safetensors file and memory, in pieces.
#pragma once
#include "engram/core/status.h"
#include "engram/formats/safetensors.h"
#include "engram/model/io/streamed_tensor.h"

namespace engram {

torch::Dtype torch_type(DType dtype);  // of weights: bf16, F16, or else fp32
// To the end of a file, as `dtype`; or from one, converted to the tensor's own type.
Status append_tensor(const StreamedTensor& tensor, torch::Dtype dtype, SafetensorsWriter& writer);
void fill_tensor(const TensorView& view, const StreamedTensor& tensor);

}  // namespace engram
