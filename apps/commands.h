// The subcommands of `engram`: one thin file each. A subcommand declares its flags and returns a Status;
// command_line.cc turns that into the exit code (0 done; 1 failed, one "error: ..." line on stderr; 2 wrong usage).
#pragma once
#include <CLI/CLI.hpp>
#include <functional>

#include "engram/core/status.h"

namespace engram::apps {

// Set by the subcommand that was chosen; command_line.cc runs it after parsing.
struct Invocation {
  std::function<Status()> run;
};

CLI::App* add_bench_group(CLI::App& app);  // `bench`, without its subcommands
void add_bench(CLI::App& app, Invocation& invocation);
void add_bench_distributed(CLI::App& bench, Invocation& invocation);  // below `bench`
void add_bench_store(CLI::App& bench, Invocation& invocation);        // below `bench`
void add_data(CLI::App& app, Invocation& invocation);
void add_data_ruler(CLI::App& data, Invocation& invocation);  // below `data`
void add_hash(CLI::App& app, Invocation& invocation);
void add_plan(CLI::App& app, Invocation& invocation);
void add_table(CLI::App& app, Invocation& invocation);
void add_tokenizer(CLI::App& app, Invocation& invocation);
void add_tokenizer_train(CLI::App& group, Invocation& invocation);  // below `tokenizer`
// Of engram-torch and engram-train:
void add_bench_exchange(CLI::App& bench, Invocation& invocation);  // below `bench`
void add_bench_ops(CLI::App& bench, Invocation& invocation);       // below `bench`
void add_bench_serve(CLI::App& bench, Invocation& invocation);     // below `bench`
void add_bench_train(CLI::App& bench, Invocation& invocation);
void add_demo(CLI::App& app, Invocation& invocation);
void add_eval(CLI::App& app, Invocation& invocation);
void add_export(CLI::App& app, Invocation& invocation);
void add_generate(CLI::App& app, Invocation& invocation);
void add_import(CLI::App& app, Invocation& invocation);
void add_lab(CLI::App& app, Invocation& invocation);
void add_score(CLI::App& app, Invocation& invocation);
void add_audit(CLI::App& app, Invocation& invocation);
void add_serve(CLI::App& app, Invocation& invocation);
void add_probes(CLI::App& lab, Invocation& invocation);  // below `lab`
void add_train(CLI::App& app, Invocation& invocation);
void add_watch(CLI::App& app, Invocation& invocation);

}  // namespace engram::apps
