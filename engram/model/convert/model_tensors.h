// The tensors of model.safetensors that a configuration asks for, without building the model. Torch-free.
#pragma once
#include <functional>

#include "engram/formats/safetensors.h"
#include "engram/model/model_config.h"

namespace engram {

// Names and shapes in a fixed order, of a model with one residual stream; dtypes are all F32. The same as
// stored_tensors() of io/checkpoint_names.h. Ends at the first error of `visit`, so that a hostile configuration costs
// no more than the tensors that are there. REQUIRES: config.validate() is ok, no hyper-connections.
Status visit_model_tensors(const ModelConfig& config, const std::function<Status(TensorSpec)>& visit);

}  // namespace engram
