// FaultyEnv: an Env that fails on purpose, so that every error path of file-writing code can be walked.
//
// It passes calls on to a base Env and counts those that change something. Typical test: run once without a plan and
// read changes(); then, for each n below it, run with fail_change = n and assert that the old state is intact.
//   FaultyEnv env(Env::posix(), {.fail_change = n});
// Deterministic: no fault depends on time or chance. Thread-safe like any Env; set the plan before use.
#pragma once
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engram/core/env.h"

namespace engram {

// -1 switches a fault off. Counts start at 0.
struct FaultPlan {
  int64_t fail_change = -1;  // the n-th change of any kind: open for writing, append, sync, close, rename, remove, ...
  int64_t fail_append = -1;  // the n-th append only
  int64_t fail_sync = -1;    // the n-th sync of a file or folder
  int64_t fail_rename = -1;  // the n-th rename (of a link too)
  int64_t disk_bytes = -1;   // appends beyond this many bytes in total fail as a full disk does
  bool short_write = false;  // a failing append first writes half of its bytes
  bool dead_after = false;   // after the first fault every call fails, as if the process had been killed
  int64_t flip_bit = -1;     // this bit (byte * 8 + bit) reads inverted in every file that has it
  int64_t read_bytes = -1;   // files read as if they ended after this many bytes
  int64_t fail_read = -1;    // the n-th read of a RandomAccessFile
  bool heal_reads = false;   // flip_bit shows in the first read of a RandomAccessFile that covers it, then no more
};

class FaultyEnv final : public Env {
 public:
  explicit FaultyEnv(Env& base, FaultPlan plan = {}) : base_(base), plan_(plan) {}

  int64_t changes() const {
    std::lock_guard lock(mutex_);
    return changes_;
  }
  int64_t faults() const {
    std::lock_guard lock(mutex_);
    return faults_;
  }
  // A power cut: every file written through this Env goes back to its length at the last sync.
  Status drop_unsynced_data() {
    std::lock_guard lock(mutex_);
    for (const auto& [path, size] : synced_bytes_) {
      if (base_.file_exists(path)) ENGRAM_RETURN_IF_ERROR(base_.truncate_file(path, size));
    }
    return {};
  }

  Result<std::string> read_file(const std::string& path, const ReadLimits& limits = {}) override {
    ENGRAM_RETURN_IF_ERROR(check_alive(path));
    ENGRAM_ASSIGN_OR_RETURN(std::string contents, base_.read_file(path, limits));
    damage(contents);
    return contents;
  }
  Result<std::unique_ptr<MappedFile>> map_file(const std::string& path) override {
    if (plan_.flip_bit < 0 && plan_.read_bytes < 0) {
      ENGRAM_RETURN_IF_ERROR(check_alive(path));
      return base_.map_file(path);
    }
    ENGRAM_ASSIGN_OR_RETURN(std::string contents, read_file(path));
    return std::unique_ptr<MappedFile>(new CopiedFile(std::move(contents)));
  }
  Result<std::unique_ptr<RandomAccessFile>> new_random_access_file(const std::string& path) override {
    ENGRAM_RETURN_IF_ERROR(check_alive(path));
    ENGRAM_ASSIGN_OR_RETURN(auto file, base_.new_random_access_file(path));
    return std::unique_ptr<RandomAccessFile>(new ReadFile(*this, std::move(file), path));
  }
  Result<std::unique_ptr<WritableFile>> new_writable_file(const std::string& path) override {
    ENGRAM_RETURN_IF_ERROR(change(path));
    ENGRAM_ASSIGN_OR_RETURN(auto file, base_.new_writable_file(path));
    return wrap(std::move(file), path, 0);
  }
  Result<std::unique_ptr<WritableFile>> new_appendable_file(const std::string& path) override {
    ENGRAM_RETURN_IF_ERROR(change(path));
    ENGRAM_ASSIGN_OR_RETURN(auto file, base_.new_appendable_file(path));
    ENGRAM_ASSIGN_OR_RETURN(int64_t size, base_.file_size(path));
    return wrap(std::move(file), path, size);
  }

  bool file_exists(const std::string& path) override { return base_.file_exists(path); }
  Result<int64_t> file_size(const std::string& path) override { return base_.file_size(path); }
  Result<std::vector<std::string>> list_directory(const std::string& path) override {
    ENGRAM_RETURN_IF_ERROR(check_alive(path));
    return base_.list_directory(path);
  }
  Result<std::string> read_symlink(const std::string& path) override { return base_.read_symlink(path); }
  Status create_directories(const std::string& path) override {
    ENGRAM_RETURN_IF_ERROR(change(path));
    return base_.create_directories(path);
  }
  Status create_directory(const std::string& path) override {
    ENGRAM_RETURN_IF_ERROR(change(path));
    return base_.create_directory(path);
  }
  Status rename_file(const std::string& from, const std::string& to) override {
    ENGRAM_RETURN_IF_ERROR(change(to, plan_.fail_rename, &renames_));
    ENGRAM_RETURN_IF_ERROR(base_.rename_file(from, to));
    move_synced(from, to);
    return {};
  }
  Status remove_file(const std::string& path) override {
    ENGRAM_RETURN_IF_ERROR(change(path));
    forget(path);
    return base_.remove_file(path);
  }
  Status remove_directory_recursively(const std::string& path) override {
    ENGRAM_RETURN_IF_ERROR(change(path));
    forget(path);
    return base_.remove_directory_recursively(path);
  }
  Status truncate_file(const std::string& path, int64_t size) override {
    ENGRAM_RETURN_IF_ERROR(change(path));
    return base_.truncate_file(path, size);
  }
  Status sync_directory(const std::string& path) override {
    ENGRAM_RETURN_IF_ERROR(change(path, plan_.fail_sync, &syncs_));
    return base_.sync_directory(path);
  }
  Status replace_symlink(const std::string& target, const std::string& link) override {
    ENGRAM_RETURN_IF_ERROR(change(link, plan_.fail_rename, &renames_));
    return base_.replace_symlink(target, link);
  }

 private:
  class CopiedFile final : public MappedFile {
   public:
    explicit CopiedFile(std::string contents) : contents_(std::move(contents)) {}
    std::span<const std::byte> bytes() const override { return std::as_bytes(std::span(contents_)); }
    Status readable() const override { return {}; }
    bool has_changed() const override { return false; }

   private:
    std::string contents_;
  };

  class ReadFile final : public RandomAccessFile {
   public:
    ReadFile(FaultyEnv& env, std::unique_ptr<RandomAccessFile> base, std::string path)
        : env_(env), base_(std::move(base)), path_(std::move(path)) {}
    Result<size_t> read_at(int64_t offset, std::span<std::byte> out) const override {
      ENGRAM_RETURN_IF_ERROR(env_.count_read(path_));
      ENGRAM_ASSIGN_OR_RETURN(size_t got, base_->read_at(offset, out));
      return env_.damage(offset, out.first(got));
    }
    Result<int64_t> size() const override {
      ENGRAM_ASSIGN_OR_RETURN(int64_t size, base_->size());
      return env_.plan_.read_bytes < 0 ? size : std::min(size, env_.plan_.read_bytes);
    }

   private:
    FaultyEnv& env_;
    std::unique_ptr<RandomAccessFile> base_;
    std::string path_;
  };

  class File final : public WritableFile {
   public:
    File(FaultyEnv& env, std::unique_ptr<WritableFile> base, std::string path, int64_t size)
        : env_(env), base_(std::move(base)), path_(std::move(path)), size_(size) {}
    Status append(std::span<const std::byte> bytes) override {
      size_t allowed = bytes.size();
      Status fault = env_.change_append(path_, bytes.size(), &allowed);
      if (!bytes.first(allowed).empty()) ENGRAM_RETURN_IF_ERROR(base_->append(bytes.first(allowed)));
      size_ += static_cast<int64_t>(allowed);
      return fault;
    }
    Status sync() override {
      ENGRAM_RETURN_IF_ERROR(env_.change(path_, env_.plan_.fail_sync, &env_.syncs_));
      ENGRAM_RETURN_IF_ERROR(base_->sync());
      env_.set_synced(path_, size_);
      return {};
    }
    Status close() override {
      ENGRAM_RETURN_IF_ERROR(env_.change(path_));
      return base_->close();
    }

   private:
    FaultyEnv& env_;
    std::unique_ptr<WritableFile> base_;
    std::string path_;
    int64_t size_;
  };

  std::unique_ptr<WritableFile> wrap(std::unique_ptr<WritableFile> file, const std::string& path, int64_t size) {
    set_synced(path, size);
    return std::make_unique<File>(*this, std::move(file), path, size);
  }

  // Counts one change; the Status is the planned fault. `counter` counts changes of one kind against `fail_at`.
  Status change(const std::string& path, int64_t fail_at = -1, int64_t* counter = nullptr) {
    std::lock_guard lock(mutex_);
    return count(path, fail_at, counter);
  }
  Status change_append(const std::string& path, size_t size, size_t* allowed) {
    std::lock_guard lock(mutex_);
    bool was_dead = dead();
    Status fault = count(path, plan_.fail_append, &appends_);
    if (!fault.ok()) {
      *allowed = plan_.short_write && !was_dead ? size / 2 : 0;
    } else if (plan_.disk_bytes >= 0 && appended_bytes_ + static_cast<int64_t>(size) > plan_.disk_bytes) {
      *allowed = static_cast<size_t>(std::max<int64_t>(0, plan_.disk_bytes - appended_bytes_));
      ++faults_;
      fault = make_status(StatusCode::kResourceExhausted, "cannot write '{}': No space left on device", path);
    }
    appended_bytes_ += static_cast<int64_t>(*allowed);
    return fault;
  }
  Status count(const std::string& path, int64_t fail_at, int64_t* counter) {
    int64_t index = changes_++;
    int64_t kind_index = counter != nullptr ? (*counter)++ : -2;
    if (!dead() && index != plan_.fail_change && (fail_at < 0 || kind_index != fail_at)) return {};
    ++faults_;
    return make_status(StatusCode::kDataLoss, "cannot write '{}': Input/output error", path);
  }
  bool dead() const { return plan_.dead_after && faults_ > 0; }
  Status check_alive(const std::string& path) const {
    std::lock_guard lock(mutex_);
    if (!dead()) return {};
    return make_status(StatusCode::kDataLoss, "cannot read '{}': Input/output error", path);
  }

  Status count_read(const std::string& path) {
    std::lock_guard lock(mutex_);
    if (!dead() && (plan_.fail_read < 0 || reads_++ != plan_.fail_read)) return {};
    ++faults_;
    return make_status(StatusCode::kDataLoss, "cannot read '{}': Input/output error", path);
  }
  // The bytes of a read at `offset`, damaged in place; how many of them the file still has.
  size_t damage(int64_t offset, std::span<std::byte> bytes) {
    std::lock_guard lock(mutex_);
    auto size = static_cast<int64_t>(bytes.size());
    if (plan_.read_bytes >= 0) size = std::clamp<int64_t>(plan_.read_bytes - offset, 0, size);
    const int64_t flipped = plan_.flip_bit / 8 - offset;
    if (plan_.flip_bit >= 0 && flipped >= 0 && flipped < size && !(plan_.heal_reads && flipped_)) {
      bytes[static_cast<size_t>(flipped)] ^= static_cast<std::byte>(1 << (plan_.flip_bit % 8));
      flipped_ = true;
    }
    return static_cast<size_t>(size);
  }
  void damage(std::string& contents) const {
    if (plan_.read_bytes >= 0) contents.resize(std::min(contents.size(), static_cast<size_t>(plan_.read_bytes)));
    if (plan_.flip_bit >= 0 && static_cast<size_t>(plan_.flip_bit / 8) < contents.size()) {
      contents[static_cast<size_t>(plan_.flip_bit / 8)] ^= static_cast<char>(1 << (plan_.flip_bit % 8));
    }
  }

  void set_synced(const std::string& path, int64_t size) {
    std::lock_guard lock(mutex_);
    synced_bytes_[path] = size;
  }
  // A folder takes the files below it along.
  void move_synced(const std::string& from, const std::string& to) {
    std::lock_guard lock(mutex_);
    std::map<std::string, int64_t> moved;
    for (const auto& [path, size] : synced_bytes_) {
      bool inside = path == from || path.starts_with(from + "/");
      if (inside)
        moved[to + path.substr(from.size())] = size;
      else
        moved.insert({path, size});
    }
    synced_bytes_ = std::move(moved);
  }
  void forget(const std::string& removed) {
    std::lock_guard lock(mutex_);
    std::erase_if(synced_bytes_,
                  [&](const auto& item) { return item.first == removed || item.first.starts_with(removed + "/"); });
  }

  Env& base_;
  const FaultPlan plan_;
  mutable std::mutex mutex_;
  int64_t changes_ = 0, appends_ = 0, syncs_ = 0, renames_ = 0, faults_ = 0, appended_bytes_ = 0, reads_ = 0;
  bool flipped_ = false;
  std::map<std::string, int64_t> synced_bytes_;
};

}  // namespace engram
