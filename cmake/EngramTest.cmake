# engram_add_test(NAME LABELS unit SOURCES a_test.cc ... LINKS engram::core): one GoogleTest binary, one ctest entry.
# TORCH marks a test that computes with libtorch: it takes the precompiled header, and ctest counts it as two
# processors because its thread pool has two threads.
# PORTABLE makes a second entry, NAME_portable: the same test over port/portable in place of port/linux.
# Label threads: the test runs code of ours on more than one thread. Target `threaded_tests` builds these, and the
# thread sanitizer runs them alone, since it can find nothing in the others.
function(engram_add_test name)
  cmake_parse_arguments(TEST "TORCH;PORTABLE" "TIMEOUT" "LABELS;SOURCES;LINKS" ${ARGN})
  if(NOT TEST_LABELS)
    message(FATAL_ERROR "engram_add_test(${name}): no LABELS (unit, contract, parity, fault, golden, e2e; threads beside them)")
  endif()
  add_executable(${name} ${TEST_SOURCES})
  target_link_libraries(${name} PRIVATE ${TEST_LINKS} engram::options GTest::gtest GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  # mold 1.10 misplaces the read-only segment of a program whose only thread-local variable is one byte (one of libtorch's
  # headers has it): the program does not start. Which tests these are changes with what they link.
  if(ENGRAM_MOLD)
    target_link_options(${name} PRIVATE -Wl,-z,norelro)
  endif()
  target_compile_definitions(${name} PRIVATE ENGRAM_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND ${name})
  if(NOT TEST_TIMEOUT)
    set(TEST_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${TEST_LABELS}" TIMEOUT ${TEST_TIMEOUT})
  if("threads" IN_LIST TEST_LABELS)
    if(NOT TARGET threaded_tests)
      add_custom_target(threaded_tests)
    endif()
    add_dependencies(threaded_tests ${name})
  endif()
  if(TEST_TORCH)
    engram_use_torch_pch(${name})
    set_tests_properties(${name} PROPERTIES PROCESSORS 2)
  else()
    target_compile_options(${name} PRIVATE -O1)  # a quarter less time to compile; what is tested keeps its own level
  endif()
  if(TEST_PORTABLE AND NOT ENGRAM_PORTABLE)
    engram_add_test(${name}_portable LABELS ${TEST_LABELS} LINKS ${TEST_LINKS}
      SOURCES $<TARGET_OBJECTS:${name}> $<TARGET_OBJECTS:engram_port_portable>)
    set_target_properties(${name}_portable PROPERTIES LINKER_LANGUAGE CXX)
  endif()
endfunction()

# engram_program(VARIABLE TARGET): the program that a test starts by itself; a script where it has to be emulated.
function(engram_program variable target)
  set(${variable} $<TARGET_FILE:${target}> PARENT_SCOPE)
  if(CMAKE_CROSSCOMPILING)
    set(script ${CMAKE_CURRENT_BINARY_DIR}/emulated_${target})
    list(JOIN CMAKE_CROSSCOMPILING_EMULATOR " " emulator)
    file(GENERATE OUTPUT ${script} CONTENT "#!/bin/sh\nexec ${emulator} $<TARGET_FILE:${target}> \"$@\"\n"
      FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
    set(${variable} ${script} PARENT_SCOPE)
  endif()
endfunction()

# engram_add_fuzzer(NAME SOURCES x_fuzz.cc ... LINKS engram::core SEEDS dir): one libFuzzer program, one ctest entry
# (labels fuzz and attack) that runs it for ENGRAM_FUZZ_SECONDS (default 60), started from the seeds. Target `fuzzers`
# builds all.
function(engram_add_fuzzer name)
  cmake_parse_arguments(FUZZ "" "SEEDS" "SOURCES;LINKS" ${ARGN})
  add_executable(${name} ${FUZZ_SOURCES})
  target_link_libraries(${name} PRIVATE ${FUZZ_LINKS} engram::options)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  if(NOT FUZZ_SEEDS)
    set(FUZZ_SEEDS "none")
  elseif(NOT IS_ABSOLUTE "${FUZZ_SEEDS}")
    set(FUZZ_SEEDS ${CMAKE_CURRENT_SOURCE_DIR}/${FUZZ_SEEDS})
  endif()
  if(NOT TARGET fuzzers)
    add_custom_target(fuzzers)
  endif()
  add_dependencies(fuzzers ${name})
  add_test(NAME ${name} COMMAND ${CMAKE_SOURCE_DIR}/tests/fuzz/run.sh $<TARGET_FILE:${name}> ${FUZZ_SEEDS})
  set_tests_properties(${name} PROPERTIES LABELS "fuzz;attack" TIMEOUT 3600)
endfunction()
