# Run at build time (cmake -P): writes OUTPUT, a .cc with the version and the commit, only when it changed.
execute_process(COMMAND git -C ${SOURCE_DIR} rev-parse HEAD OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE
                ERROR_QUIET RESULT_VARIABLE failed)
# An unpacked archive inside somebody else's checkout has no commit.
execute_process(COMMAND git -C ${SOURCE_DIR} rev-parse --show-toplevel OUTPUT_VARIABLE top
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
file(REAL_PATH "${SOURCE_DIR}" source)
if(failed OR NOT top STREQUAL source)
  set(commit unknown)
else()
  execute_process(COMMAND git -C ${SOURCE_DIR} diff --quiet HEAD -- RESULT_VARIABLE dirty ERROR_QUIET)
  if(dirty)
    string(APPEND commit -dirty)
  endif()
endif()
set(text "#include \"engram/core/machine.h\"\n\nnamespace engram {\nconst char* build_version() { return \"${VERSION}\"; }\nconst char* build_commit() { return \"${commit}\"; }\n}  // namespace engram\n")
set(old "")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} old)
endif()
if(NOT old STREQUAL text)
  file(WRITE ${OUTPUT} "${text}")
endif()
