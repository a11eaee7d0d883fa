// The safetensors files of a folder, as one set of tensors: those that model.safetensors.index.json names, else all of
// them.
#pragma once
#include <map>
#include <string>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/formats/safetensors.h"

namespace engram {

// Move-only.
class ShardSet {
 public:
  // kDataLoss: a tensor in two files, an index that is not one or names a path outside the folder.
  static Result<ShardSet> open(Env& env, const std::string& directory);
  // Opens every file. kDataLoss: a tensor that the index gives to another file, or to none. kNotFound: a file of the
  // index that is not there, or a tensor that is not in its file.
  Status check_index();
  // Opens the file at first use. kNotFound names folder and tensor.
  Result<TensorView> find(const std::string& name);
  bool has(const std::string& name) const { return file_of_.contains(name); }
  const std::map<std::string, std::string>& file_of() const { return file_of_; }  // tensor -> file name
  Status check_unchanged() const;                                                 // of all files that were opened

 private:
  Result<const SafetensorsFile*> file(const std::string& name);

  Env* env_ = nullptr;
  std::string directory_;
  std::map<std::string, std::string> file_of_;
  std::map<std::string, SafetensorsFile> files_;
};

}  // namespace engram
