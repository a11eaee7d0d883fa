// Facts about this process and its machine, and requests that the system may refuse.
#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

namespace engram::port {

// Called first in main(): the portable functions know a program by what it was called with.
void remember_arguments(int argc, char** argv);
// What this process was called with; empty where the system does not say.
std::vector<std::string> program_arguments();
// This process's program, to be started again; empty where the system does not say.
std::string program_path();

// False for a zombie, which holds nothing any more.
bool is_running(pid_t process);
// For a child, between fork and exec: the system ends it (SIGTERM) when its parent dies. Async-signal-safe.
void end_with_parent();

std::string processor_name();   // empty where the system does not say
std::string gpu_description();  // ", " and the first NVIDIA GPU's name and how many there are; empty without its driver
int usable_cores();

// What is freed stays with the process, for a program that asks for the same memory again and again.
void keep_freed_memory();
// The kernel lets this process use the processor's matrix tiles (AMX). Asked once, for all of its threads.
bool allow_matrix_tiles();

// While it lives, this thread and those it starts take no core by waking up.
class BatchScheduling {
 public:
  BatchScheduling();
  ~BatchScheduling();
  BatchScheduling(const BatchScheduling&) = delete;
  BatchScheduling& operator=(const BatchScheduling&) = delete;

 private:
  bool changed_;
};

}  // namespace engram::port
