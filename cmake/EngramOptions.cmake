# One INTERFACE target carries warnings, sanitizers and linker choices; no global flags.
add_library(engram_options INTERFACE)
add_library(engram::options ALIAS engram_options)
target_compile_features(engram_options INTERFACE cxx_std_20)
target_compile_options(engram_options INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor
                                                -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  target_compile_options(engram_options INTERFACE -Wthread-safety)
endif()
if(ENGRAM_WERROR)
  target_compile_options(engram_options INTERFACE -Werror)
endif()

if(ENGRAM_SANITIZER STREQUAL "address")
  set(_sanitize -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
elseif(ENGRAM_SANITIZER STREQUAL "thread")
  set(_sanitize -fsanitize=thread -fno-omit-frame-pointer)
elseif(NOT ENGRAM_SANITIZER STREQUAL "")
  message(FATAL_ERROR "ENGRAM_SANITIZER: got '${ENGRAM_SANITIZER}', wanted address, thread or empty")
endif()
if(ENGRAM_SANITIZER)
  if(ENGRAM_WITH_TORCH)
    message(FATAL_ERROR "sanitizers run over the torch-free part: set ENGRAM_WITH_TORCH=OFF")
  endif()
  target_compile_options(engram_options INTERFACE ${_sanitize})
  target_link_options(engram_options INTERFACE ${_sanitize})
endif()

find_program(ENGRAM_MOLD mold)
if(ENGRAM_MOLD AND NOT ENGRAM_SANITIZER AND NOT CMAKE_CROSSCOMPILING)
  target_link_options(engram_options INTERFACE -fuse-ld=mold)
endif()

find_program(ENGRAM_CCACHE ccache)
if(ENGRAM_CCACHE)
  # Precompiled headers need the two sloppiness flags; base_dir lets two build folders share objects.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${ENGRAM_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${ENGRAM_CCACHE})
else()  # file names in messages as with ccache: relative, wherever the tree lies
  file(RELATIVE_PATH _up ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
  add_compile_options(-ffile-prefix-map=${CMAKE_SOURCE_DIR}/=${_up})
endif()

# engram_add_room(NAME SOURCES ... LINKS ...): one room of the house, library engram_NAME, alias engram::NAME.
function(engram_add_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  add_library(engram_${name} STATIC ${ROOM_SOURCES})
  add_library(engram::${name} ALIAS engram_${name})
  target_include_directories(engram_${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(engram_${name} PUBLIC engram::options ${ROOM_LINKS} PRIVATE ${ROOM_PRIVATE_LINKS})
endfunction()

# Takes the precompiled header of another target.
function(engram_reuse_pch target owner)
  target_precompile_headers(${target} REUSE_FROM ${owner})
  get_target_property(_type ${target} TYPE)
  if(_type STREQUAL EXECUTABLE)  # the header was compiled as -fPIC; CMake's -fPIE would make it unusable
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE -fPIC)
  endif()
endfunction()
